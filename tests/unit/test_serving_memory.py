"""Whether a model fits is asked before it is loaded, and the answer says what would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.serving import loader
from engine.serving.bundle import WeightsFile
from engine.serving.compute import file_pages
from engine.serving.compute.file_pages import clean_mappings, give_back_file_pages
from engine.serving.compute.kv_cache import CachePlan, PagedCache
from engine.serving.memory import DoesNotFit, Need, _cgroup_headroom, refuse_unless_fits
from engine.serving.models.decoder import Shape
from engine.serving.weights import Weights

BILLION = Need(weights=1_000_000_000, cache_per_token=32_768, context=8192)


@pytest.mark.parametrize(
    ("dtype", "gib", "hint"),
    [
        (
            "float32",
            4.5,
            "dtype float32 with max_context 6144, or dtype bfloat16 with max_batch 5 at the whole context",
        ),
        ("float32", 3.0, "dtype bfloat16 with max_batch 2 at the whole context"),
        ("bfloat16", 2.0, "what would fit: dtype bfloat16 with max_context 2048"),
        ("float16", 1.5, "nothing of it fits: it takes 1.88 GiB in bfloat16"),
    ],
)
def test_a_model_that_does_not_fit_is_told_what_would(dtype: str, gib: float, hint: str) -> None:
    with pytest.raises(DoesNotFit, match=r"1,000,000,000 weights in .* free on cpu") as refused:
        refuse_unless_fits(BILLION, dtype, int(gib * 2**30), "cpu")
    assert hint in refused.value.hint


def test_what_is_proposed_does_fit() -> None:
    refuse_unless_fits(BILLION, "bfloat16", int(3.0 * 2**30), "cpu")
    shorter = Need(BILLION.weights, BILLION.cache_per_token, 2048)
    refuse_unless_fits(shorter, "bfloat16", int(2.0 * 2**30), "cpu")


def test_a_containers_limit_counts_and_its_file_cache_does_not(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\n")
    assert list(_cgroup_headroom(tmp_path)) == [500]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(_cgroup_headroom(tmp_path)) == []
    assert list(_cgroup_headroom(tmp_path / "none")) == []


def weights_file(path: Path) -> WeightsFile:
    found = path.stat()
    return WeightsFile(path, (found.st_ino, found.st_size, found.st_mtime_ns))


def test_a_file_that_is_written_to_after_it_was_hashed_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4)}, tmp_path / "model.safetensors")
    file = weights_file(tmp_path / "model.safetensors")
    os.utime(file.path, ns=(1, 1))
    with pytest.raises(loader.BundleRefused, match="changed while it was being loaded"):
        Weights([file])


_PEAK = """
import resource, sys, torch
from pathlib import Path
from engine.serving.bundle import WeightsFile
from engine.serving.compute.file_pages import clean_mappings, give_back_file_pages
from engine.serving.compute.kv_cache import CachePlan, PagedCache
from engine.serving.weights import Weights
path = Path(sys.argv[1])
found = path.stat()
weights = Weights([WeightsFile(path, (found.st_ino, found.st_size, found.st_mtime_ns))])
torch.ones(1).to(torch.bfloat16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
held = [weights.joined([f"{n}.a", f"{n}.b"], torch.bfloat16, torch.device("cpu")) for n in range(32)]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / sum(t.nbytes for t in held))
"""


def test_a_load_takes_the_models_size_in_memory_and_little_more(tmp_path: Path) -> None:
    parts = {f"{n}.{half}": torch.zeros(1 << 20, dtype=torch.bfloat16) for n in range(32) for half in "ab"}
    save_file(parts, tmp_path / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / "model.safetensors")],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert float(done.stdout) < 1.3


def resident_bytes() -> int:
    """What of this process is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_cache_takes_memory_as_it_is_used() -> None:
    shape = Shape(n_layer=4, n_head=4, n_kv_head=4, head_dim=64, context=4096, vocab_size=10)
    before = resident_bytes()
    cache = PagedCache(shape, CachePlan(16_384, 16, 0), torch.device("cpu"), torch.float32)
    assert cache.nbytes > 2 << 30
    assert resident_bytes() - before < 64 << 20
    slots = torch.arange(48)
    key = torch.randn(48, 4, 64)
    cache.store(1, slots, key, -key)
    keys, values = cache.read(1, torch.tensor([0, 1, 2, 9000]), 1)
    assert torch.equal(keys[0, :48], key) and torch.equal(values[0, :48], -key)
    assert not keys[0, 48:].any()


def mapping(header: str, anonymous: int = 0, swap: int = 0) -> list[str]:
    return [
        header,
        "Rss: 64 kB",
        f"Anonymous: {anonymous} kB",
        "AnonHugePages: 0 kB",
        f"Swap: {swap} kB",
        "SwapPss: 0 kB",
    ]


def test_only_pages_that_are_still_the_files_own_are_given_back() -> None:
    smaps = [
        *mapping("7f00-7f10 r-xp 00000000 fe:00 1  /lib/code.so"),
        *mapping("7f10-7f20 r--p 00000000 fe:00 1  /lib/code.so", anonymous=4),
        *mapping("7f20-7f30 rw-p 00000000 fe:00 1  /lib/code.so"),
        *mapping("7f30-7f40 r--p 00000000 00:00 0 "),
        *mapping("7f40-7f50 r--p 00000000 fe:00 2  /a file with spaces"),
        *mapping("7f50-7f60 r--s 00000000 fe:00 3  /shared"),
        # A table of addresses that a full machine has put aside: nothing of it is in memory, and no file has it.
        *mapping("7f60-7f70 r--p 00000000 fe:00 1  /lib/code.so", swap=4),
        # A kernel without swap says nothing of it; then nothing is known.
        *mapping("7f70-7f80 r-xp 00000000 fe:00 1  /lib/code.so")[:3],
        *mapping("7f80-7f90 r-xp 00000000 fe:00 1  /lib/code.so"),
    ]
    assert list(clean_mappings(smaps)) == [(0x7F00, 0x7F10), (0x7F40, 0x7F50), (0x7F80, 0x7F90)]


def test_where_the_kernel_says_nothing_of_pages_none_are_given_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(file_pages, "_SMAPS", tmp_path / "smaps")
    assert give_back_file_pages() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="madvise(2)")
def test_a_process_goes_on_after_its_libraries_pages_went() -> None:
    assert give_back_file_pages() > 1 << 20
    assert torch.ones(64, 64).mm(torch.ones(64, 64)).sum() == 64**3
