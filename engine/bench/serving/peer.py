"""transformers' `generate` behind lines of JSON: `PYTHON peer.py MODEL_DIR DTYPE THREADS`.

Run by another interpreter than ours, hence one file that imports nothing of this program. Each line that comes in is
one order, each line that goes out its answer:

    {"op": "generate", "prompts": [[id, …], …], "new": 32}  ->  {"seconds": …, "tokens": [[id, …], …]}
    {"op": "convert", "gguf": FILE, "to": DIR}              ->  {"seconds": …}
    {"op": "about"}                                         ->  {"name": "transformers 5.…", "device": "cpu"}
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


class Peer:
    """One model, loaded at its first use."""

    def __init__(self, path: str, dtype: str, threads: int) -> None:
        import torch
        import transformers

        self.torch: Any = torch
        self.transformers: Any = transformers
        self.torch.set_num_threads(threads)
        self.transformers.utils.logging.set_verbosity_error()
        self.path = path
        self.dtype = getattr(torch, dtype)
        self.model: Any = None
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def about(self) -> dict[str, Any]:
        """Which library on which device."""
        name = f"transformers {self.transformers.__version__}, torch {self.torch.__version__}"
        return {"name": name, "device": self.device}

    def generate(self, prompts: list[list[int]], new: int) -> dict[str, Any]:
        """Greedy, one batch, `new` tokens each whatever they are; seconds from ids to ids."""
        torch = self.torch
        if self.model is None:
            load = self.transformers.AutoModelForCausalLM.from_pretrained
            self.model = load(self.path, dtype=self.dtype).eval().to(self.device)
        ids = torch.tensor(prompts, device=self.device)
        began = time.perf_counter()
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=0,
            )
        tokens = out[:, ids.shape[1] :].tolist()
        return {"seconds": time.perf_counter() - began, "tokens": tokens}

    def convert(self, gguf: str, to: str) -> dict[str, Any]:
        """A GGUF's weights in `dtype` as safetensors, its tokenizer and chat template, in the directory `to`."""
        began = time.perf_counter()
        folder, _, name = gguf.rpartition("/")
        quantized = self.transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=self.dtype)
        described = quantized.config.to_dict()
        described.pop("quantization_config", None)
        # A model that came from a GGUF refuses to be saved; one of the same configuration and weights does not.
        plain = type(quantized)(type(quantized.config)(**described)).to(self.dtype)
        plain.load_state_dict(quantized.state_dict())
        plain.generation_config = quantized.generation_config
        plain.save_pretrained(to)
        self.transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(to)
        return {"seconds": time.perf_counter() - began}


def main(path: str, dtype: str, threads: str) -> None:
    """Answer orders until the input ends."""
    peer = Peer(path, dtype, int(threads))
    for line in sys.stdin:
        order = json.loads(line)
        operation = getattr(peer, order.pop("op"))
        sys.stdout.write(json.dumps(operation(**order)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
