"""Loading a release: what was released is what runs, or a sentence says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bundles import seal
from safetensors.torch import save_file

from engine.serving.compute.generate import generate_text
from engine.serving.loader import load_bundle
from engine.serving.models.gpt import GPT, GPTConfig
from state.digests import bundle_digest, hash_tree
from state.words import AirbossError

CONFIG = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=4)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    root.mkdir()
    torch.manual_seed(1)
    save_file(GPT(CONFIG).state_dict(), root / "model.safetensors")
    (root / "config.json").write_text(json.dumps(CONFIG.to_json()))
    (root / "tokenizer.json").write_text(json.dumps({"type": "char", "chars": list(" abc")}))
    (root / "serving.json").write_text(json.dumps({"max_batch": 2, "fault": None}))
    seal(root)
    return root


def test_a_whole_bundle_loads_and_computes_what_was_saved(bundle: Path) -> None:
    loaded = load_bundle(bundle, json.loads((bundle / "release.json").read_text())["digest"])
    torch.manual_seed(1)
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded.model(tokens), GPT(CONFIG)(tokens))
    assert loaded.serving.max_batch == 2
    assert len(generate_text(loaded, "ab", 5)) == 5


def flip_a_byte(root: Path) -> None:
    path = root / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def truncate(root: Path) -> None:
    path = root / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lie_in_the_manifest(root: Path) -> None:
    flip_a_byte(root)
    manifest = json.loads((root / "release.json").read_text())
    files = {file.path: file for file in hash_tree(root)}
    for listed in manifest["files"]:
        listed["sha256"] = files[listed["path"]].sha256
    (root / "release.json").write_text(json.dumps(manifest))


def reach_outside(root: Path) -> None:
    manifest = json.loads((root / "release.json").read_text())
    manifest["files"].append({"path": "../../etc/passwd", "sha256": "0" * 64, "size": 1})
    from state.digests import FileDigest

    manifest["digest"] = bundle_digest(FileDigest(f["path"], f["sha256"], f["size"]) for f in manifest["files"])
    (root / "release.json").write_text(json.dumps(manifest))


def link(root: Path) -> None:
    (root / "config.json").rename(root.parent / "elsewhere.json")
    (root / "config.json").symlink_to(root.parent / "elsewhere.json")


def other_tokenizer(root: Path) -> None:
    (root / "tokenizer.json").write_text(json.dumps({"type": "char", "chars": list("abc")}))
    seal(root)


def other_shape(root: Path) -> None:
    (root / "config.json").write_text(json.dumps({**CONFIG.to_json(), "n_embd": 32}))
    seal(root)


def other_architecture(root: Path) -> None:
    (root / "config.json").write_text(json.dumps({**CONFIG.to_json(), "architecture": "llama"}))
    seal(root)


def pickle_for_weights(root: Path) -> None:
    torch.save(GPT(CONFIG).state_dict(), root / "model.safetensors")
    seal(root)


def no_json(root: Path) -> None:
    (root / "serving.json").write_text("{max_batch: 2}")
    seal(root)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip_a_byte, r"model\.safetensors was altered"),
        (truncate, r"model\.safetensors has \d+ bytes, but \d+ were released"),
        (lambda root: (root / "tokenizer.json").unlink(), r"tokenizer\.json cannot be read: No such file"),
        (lambda root: (root / "release.json").unlink(), r"release\.json cannot be read"),
        (lambda root: (root / "release.json").write_text('{"digest": "x"}'), r"is not a release manifest: files"),
        (lie_in_the_manifest, r"does not match its own digest"),
        (reach_outside, r"lists a file outside the bundle"),
        (link, r"config\.json is a symbolic link"),
        (other_tokenizer, r"3 characters in its tokenizer, but a model of 4"),
        (other_shape, r"do not fit its config\.json"),
        (other_architecture, r"architecture is 'llama'"),
        (pickle_for_weights, r"is no safetensors file"),
        (no_json, r"serving\.json is not JSON"),
    ],
)
def test_a_damaged_bundle_is_refused_in_a_sentence(
    bundle: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(bundle)
    with pytest.raises(AirbossError, match=sentence):
        load_bundle(bundle, None)


def test_another_release_than_the_one_expected_is_refused(bundle: Path) -> None:
    with pytest.raises(AirbossError, match="was to be served"):
        load_bundle(bundle, "f" * 64)
