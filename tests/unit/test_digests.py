"""Hashing many files: the same digests in the same order, whether on one core or on all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from state import digests
from state.digests import FileDigest, hash_files, hash_tree


@pytest.mark.parametrize("parallel_from", [0, 1 << 40])
def test_a_tree_has_one_digest_on_one_core_and_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel_from: int
) -> None:
    monkeypatch.setattr(digests, "PARALLEL_FROM", parallel_from)
    (tmp_path / "b").mkdir()
    bodies = {"a.txt": b"", "b/c.bin": bytes(range(256)) * 999, "b/d": b"x", "z": b"zz"}
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "link").symlink_to("z")
    wanted = tuple(FileDigest(n, hashlib.sha256(b).hexdigest(), len(b)) for n, b in bodies.items())
    assert hash_tree(tmp_path) == wanted
    assert hash_tree(tmp_path, exclude=("z",)) == wanted[:-1]
    assert hash_files(tmp_path, ["z", "a.txt"]) == (wanted[3], wanted[0])
    with pytest.raises(FileNotFoundError):
        hash_files(tmp_path, ["a.txt", "none"])
