"""Whether an image is what its maker signed: by cosign's own command, where it is installed. An image by tag is nothing one could verify."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from state.image_config import ImageCheck
from state.words import GateRefused, TimedOut, Unreachable

TIMEOUT_S = 60.0
_PINNED = re.compile(r"@(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of an image. `warning` is "" when all that was asked for is known."""

    said: str
    warning: str = ""


def digest_of(image: str) -> str:
    """`sha256:…` of an image that is pinned; "" for a tag."""
    found = _PINNED.search(image)
    return found[1] if found else ""


def check(image: str, wanted: ImageCheck | None, root: Path) -> Checked:
    """Look at the image. Blocks for up to a minute. `root` is what a key's relative path is below.

    Raises GateRefused for one that was to be verified and is a tag, is not signed so, or cannot be looked at though it is `required`;
    Unreachable and TimedOut when cosign cannot ask.
    """
    digest = digest_of(image)
    if wanted is None:
        tag = "" if digest else f"{image} is a tag: what it is can change; name@sha256:… cannot"
        return Checked(f"{digest[:19]}…, signature not asked for" if digest else "by tag, not verified", tag)
    if not digest:
        raise GateRefused(
            f"{image} is to be verified, and is a tag: it could be another image by the time it is pulled",
            hint="pin it: image = 'name@sha256:…' (`crane digest`, `docker buildx imagetools inspect`)", code="image_tag",
        )  # fmt: skip
    cosign = shutil.which("cosign")
    if cosign is None:
        if wanted.required:
            raise GateRefused(
                f"{image} cannot be verified: cosign is not installed where the engine runs",
                hint="install cosign there, or take `required` out: the digest alone is checked then", code="no_cosign",
            )  # fmt: skip
        return Checked(
            f"{digest[:19]}…",
            "cosign is not installed here: the image's digest is pinned, its signature is not verified",
        )
    return _by_cosign(cosign, image, digest, wanted, root)


def _by_cosign(cosign: str, image: str, digest: str, wanted: ImageCheck, root: Path) -> Checked:
    if wanted.key:
        key = wanted.key if "://" in wanted.key else str(root / Path(wanted.key).expanduser())
        who = ["--key", key]
    else:
        who = ["--certificate-identity", str(wanted.identity), "--certificate-oidc-issuer", str(wanted.issuer)]
    try:
        done = subprocess.run(
            [cosign, "verify", "--output", "json", *who, image], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimedOut(
            f"cosign has not verified {image} after {TIMEOUT_S:g} s", hint="are the registry and Rekor reachable?"
        ) from error
    except OSError as error:
        raise Unreachable(f"cosign could not be run: {error}", hint="run `cosign version` by hand") from error
    said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    if done.returncode:
        raise GateRefused(
            f"{image} is not signed by {wanted.signer}: {said}",
            hint=f"`cosign verify {' '.join(who)} {image}` says more; nothing was deployed", code="image_signature",
        )  # fmt: skip
    try:
        digests = {one["critical"]["image"]["docker-manifest-digest"] for one in json.loads(done.stdout)}
    except (ValueError, KeyError, TypeError) as error:
        raise GateRefused(f"cosign's answer for {image} cannot be read", hint="is it cosign 2 or later?") from error
    if digest not in digests:
        raise GateRefused(
            f"{image}: what is signed is {', '.join(sorted(digests))}", hint="pin the digest that was signed"
        )
    return Checked(f"{digest[:19]}…, signed by {wanted.signer}")
