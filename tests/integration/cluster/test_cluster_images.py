"""An image is verified before its release is deployed: nothing is written for one that is not what its maker signed."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from kube.server import KubeServer
from kube_room import CANARY, CONFIG, ROUTED, KubeRoom
from kube_things import gateway

from state.store import Store
from state.words import GateRefused

Make = Callable[..., KubeRoom]
IMAGE = "vllm/vllm-openai:v0.11.0"
DIGEST = "sha256:" + "d" * 64
PINNED = f"vllm/vllm-openai@{DIGEST}"
COSIGN = """#!/bin/sh
# As cosign's own: says yes to what the key has signed, no on stderr with exit 10 to all else.
key=; for word; do [ "$last" = --key ] && key=$word; last=$word; done
grep -q "^$last$" "$key" || { echo "Error: no matching signatures" >&2; exit 10; }
echo '[{"critical":{"image":{"docker-manifest-digest":"'${last##*@}'"}}}]'
"""


@pytest.fixture
def make(kube: KubeServer, kubeconfig: Path, tmp_path: Path, store: Store) -> Make:
    """A room whose service has this image and this check."""
    kube.create(gateway())

    def made(image: str, verify: str = "") -> KubeRoom:
        toml = CONFIG.format(kubeconfig=kubeconfig, target=ROUTED, policy=CANARY, judge="").replace(IMAGE, image)
        return KubeRoom(
            store, tmp_path, toml + f"\n[service.chat.kubernetes.verify]\n{verify}\n" * bool(verify), kube=kube
        )

    return made


@pytest.fixture
def cosign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "cosign"
    program.parent.mkdir()
    program.write_text(COSIGN)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


async def test_what_the_key_signed_is_deployed_and_the_plan_says_so(make: Make, cosign: None, tmp_path: Path) -> None:
    (tmp_path / "cosign.pub").write_text(PINNED + "\n")
    async with make(PINNED, 'key = "cosign.pub"') as room:
        done = await room.deploy("a")
        assert done.changed
        (line,) = [one.after for one in done.plan.lines if one.object == "production image"]
        assert line == f"{PINNED} (sha256:dddddddddddd…, signed by key cosign.pub)"


async def test_what_it_did_not_sign_is_refused_in_cosigns_words_and_nothing_is_written(
    make: Make, cosign: None, tmp_path: Path
) -> None:
    (tmp_path / "cosign.pub").write_text("another\n")
    async with make(PINNED, 'key = "cosign.pub"') as room:
        with pytest.raises(GateRefused, match=r"is not signed by key cosign\.pub: Error: no matching signatures"):
            await room.deploy("a")
        assert room.written() == []
        planned = await room.deploy("a", dry_run=True)
        assert any("is not signed by" in said for said in planned.plan.warnings)


async def test_a_tag_cannot_be_verified(make: Make, cosign: None) -> None:
    async with make(IMAGE, 'key = "cosign.pub"') as room:
        with pytest.raises(GateRefused, match="is a tag"):
            await room.deploy("a")


async def test_without_cosign_the_digest_alone_is_checked_and_said_so_unless_it_is_required(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    async with make(PINNED, 'key = "cosign.pub"') as room:
        planned = await room.deploy("a", dry_run=True)
        assert any("its signature is not verified" in said for said in planned.plan.warnings)
        assert (await room.deploy("a")).changed


async def test_without_cosign_a_required_signature_refuses(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    async with make(PINNED, 'key = "cosign.pub"\nrequired = true') as room:
        with pytest.raises(GateRefused, match="cosign is not installed"):
            await room.deploy("a")
