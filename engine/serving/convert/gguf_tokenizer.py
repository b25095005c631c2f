"""The tokenizer that a GGUF file describes, written as Hugging Face's `tokenizer.json` and `tokenizer_config.json`.

A GGUF has the vocabulary, the merges and a name for how text is cut before them; the cutting itself lives in llama.cpp
(`llama-vocab.cpp`), whose patterns these are. A name that is not known is refused: another cut gives other tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_CONTROL, _USER_DEFINED = 3, 4
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS = {
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
_GPT2 = ("default", "gpt-2", "gpt2")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
"""GPT-2's cut after every digit was set apart."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The text of `tokenizer.json`, and the value of `tokenizer_config.json`."""

    tokenizer: str
    config: dict[str, Any]


def tokenizer_files(fields: Mapping[str, Any]) -> TokenizerFiles:
    """The files for the metadata of a GGUF. Raises ValueError when it has no tokenizer, or one not known here."""

    def value(name: str, default: Any = None) -> Any:
        return fields.get(f"tokenizer.ggml.{name}", default)

    tokens = value("tokens")
    kind = value("model")
    if not tokens:
        raise ValueError("there is no tokenizer in it")
    if kind == "gpt2":
        model = _byte_level(tokens, value("merges") or [], str(value("pre", "default")))
    elif kind == "llama":
        model = _sentencepiece(tokens, value("merges"), value("scores") or [], bool(value("add_space_prefix", True)))
    else:
        raise ValueError(
            f"its tokenizer is {kind!r}; 'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE) are read here"
        )
    _add_whole_words(model, tokens, value("token_type") or [])
    special = {
        name: tokens[int(value(key))]
        for name, key in (
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        )
        if value(key) is not None
    }
    # llama.cpp begins a SentencePiece text with BOS unless the file says otherwise.
    begins = bool(value("add_bos_token", kind == "llama")) and "bos_token" in special
    if begins:
        bos = special["bos_token"]
        with_bos = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, int(value("bos_token_id")))]
        )
        model.post_processor = (
            processors.Sequence([model.post_processor, with_bos]) if model.post_processor is not None else with_bos
        )
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": begins, **special}
    template = fields.get("tokenizer.chat_template")
    if template:
        config["chat_template"] = str(template)
    return TokenizerFiles(model.to_str(), config)


def _byte_level(tokens: Sequence[str], merges: Sequence[str], pre: str) -> Tokenizer:
    """BPE over bytes: GPT-2, Llama 3, Qwen, SmolLM2."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = Tokenizer(models.BPE(vocabulary, [_pair(merge) for merge in merges]))
    if pre in _GPT2:
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif pre in _SINGLE_DIGITS:
        model.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif pre in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated")
        model.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        if _SPLITS[pre] is _LLAMA3:
            # Llama 3 takes a word that is in the vocabulary as it is, before any merge.
            model.model = models.BPE(vocabulary, [_pair(merge) for merge in merges], ignore_merges=True)
    else:
        raise ValueError(f"its text is cut by {pre!r}, which is not known here")
    if pre in ("qwen2", "deepseek-r1-qwen"):
        model.normalizer = normalizers.NFC()
    model.decoder = decoders.ByteLevel()
    return model


def _sentencepiece(
    tokens: Sequence[str], merges: Sequence[str] | None, scores: Sequence[float], has_prefix: bool
) -> Tokenizer:
    """BPE over characters with bytes for the unknown: Llama 2, Mistral."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [_pair(merge) for merge in merges] if merges else _merges_of(vocabulary, scores)
    model = Tokenizer(models.BPE(vocabulary, pairs, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    spaces = normalizers.Replace(" ", "▁")
    model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if has_prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    model.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if has_prefix else steps)
    return model


def _merges_of(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges that SentencePiece's scores imply: any two pieces that make a third, the best third first."""
    found = []
    for piece, index in vocabulary.items():
        splits = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found += [(-scores[index], pair) for pair in known]
    found.sort(key=lambda entry: entry[0])
    return [pair for _, pair in found]


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _add_whole_words(model: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Words that are never cut: control tokens, which are not shown, and those the model's makers added."""
    model.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t, k in zip(tokens, kinds, strict=False) if k == _CONTROL]
    )
    model.add_tokens(
        [AddedToken(t, normalized=False) for t, k in zip(tokens, kinds, strict=False) if k == _USER_DEFINED]
    )
