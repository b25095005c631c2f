"""Sending a message out: a webhook or a command, with a deadline on each try. What both alerts and hooks do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import stamina

from engine.observe.outbound import open_client
from state.words import ConfigError

WEBHOOK_TIMEOUT_S = 5.0
WEBHOOK_ATTEMPTS = 3
COMMAND_TIMEOUT_S = 10.0
_PASSED_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER")


class Undelivered(Exception):
    """A hook did not take a message; the text says why, without the hook's secrets."""


def secret_of(reference: str) -> str:
    """The value that `env:NAME` or `file:PATH` refers to; anything else is the value itself. Raises ConfigError."""
    kind, _, name = reference.partition(":")
    if kind == "env":
        if name not in os.environ:
            raise ConfigError(f"the environment has no {name}", hint="set it where the engine is started")
        return os.environ[name].strip()
    if kind == "file" and not name.startswith("//"):
        try:
            return Path(name).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"{name} cannot be read: {error.strerror}", hint="make it readable to the engine"
            ) from error
    return reference


async def post(
    reference: str, body: bytes, headers: Mapping[str, str] | None = None, *, attempts: int = WEBHOOK_ATTEMPTS
) -> None:
    """POST the JSON `body` to the webhook, a few tries with backoff, each with its deadline. Raises Undelivered, ConfigError."""
    url = secret_of(reference)
    headers = {"content-type": "application/json", **(headers or {})}
    try:
        async with await open_client(WEBHOOK_TIMEOUT_S) as client:
            async for attempt in stamina.retry_context(
                on=_is_worth_retrying,
                attempts=attempts,
                timeout=WEBHOOK_TIMEOUT_S * 3,
                wait_initial=0.2,
                wait_max=2,
            ):
                with attempt:
                    await _post_once(client, url, body, headers)
    except TimeoutError:
        raise Undelivered(f"webhook {shown_address(url)}: no answer within {WEBHOOK_TIMEOUT_S:g} s") from None
    except httpx.HTTPStatusError as error:
        raise Undelivered(f"webhook {shown_address(url)}: it answered {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Undelivered(
            f"webhook {shown_address(url)}: {type(error).__name__}: {error}".replace(url, shown_address(url))
        ) from None


async def _post_once(client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """One try, with a deadline over all of it: the client's own is for each read, and a receiver that drips has many.

    The status is the answer. What follows it is not read: it may be without end.
    """
    async with asyncio.timeout(WEBHOOK_TIMEOUT_S), client.stream("POST", url, content=body, headers=headers) as answer:
        answer.raise_for_status()


def _is_worth_retrying(error: Exception) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError | TimeoutError)


def shown_address(url: str) -> str:
    """Scheme and host only: a webhook's path and query are its secret."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or '?'}"
    except ValueError:
        return "(not a URL)"


def run_command(
    command: Sequence[str], body: bytes, variables: Mapping[str, str], timeout_s: float | None = None
) -> None:
    """Run the hook with the JSON `body` on its stdin, no shell, in a group of its own. Blocks. Raises Undelivered."""
    timeout_s = COMMAND_TIMEOUT_S if timeout_s is None else timeout_s
    env = {name: os.environ[name] for name in _PASSED_ENV if name in os.environ}
    env |= variables
    name = Path(command[0]).name
    # Files, not pipes: a grandchild that keeps a pipe open would hold this thread for as long as it lives.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(body)
        stdin.seek(0)
        try:
            hook = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=stderr, env=env, start_new_session=True
            )
        except OSError as error:
            raise Undelivered(f"command {name}: {error.strerror}") from error
        try:
            code = hook.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(hook.pid, signal.SIGKILL)
            hook.wait()
            raise Undelivered(f"command {name}: it took longer than {timeout_s:g} s and was killed") from None
        if code != 0:
            stderr.seek(0, os.SEEK_END)
            stderr.seek(max(0, stderr.tell() - 300))
            said = stderr.read().decode("utf-8", "replace").strip()
            raise Undelivered(f"command {name}: exit {code}" + (f": {said}" if said else ""))
