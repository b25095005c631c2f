"""Checks that somebody else makes: over HTTP, or by a command. One JSON object in, one out.

In: `{"check", "on": "prompt" | "answer", "service", "env", "release", "tenant", "texts": [...]}`.
Out: `{"ok": true}`, or `{"ok": false, "reason": "…", "texts": [...]}`; `texts` is what to pass on instead (redact).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError

from adapters.access import SafetyRule

MAX_ANSWER_BYTES = 4 << 20
COMMANDS_AT_ONCE = 8
COMMAND_ENV = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMPDIR", "TZ", "USER")


class HookAnswer(BaseModel):
    """What a hook said."""

    model_config = ConfigDict(extra="ignore", strict=True)
    ok: bool
    reason: str = ""
    texts: list[str] | None = None


class HookFailed(Exception):
    """The hook gave no usable answer in time."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a hook is told beside the texts."""

    on: str
    service: str
    env: str
    release: str
    tenant: str


class Hooks:
    """Asks hooks. The HTTP session is opened with the first question."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._threads = ThreadPoolExecutor(COMMANDS_AT_ONCE, thread_name_prefix="safety")

    async def ask(self, rule: SafetyRule, question: Question, texts: list[str]) -> HookAnswer:
        """The hook's word on `texts`. Raises HookFailed, at the latest after the rule's timeout."""
        body = json.dumps(
            {
                "check": rule.name,
                "on": question.on,
                "service": question.service,
                "env": question.env,
                "release": question.release,
                "tenant": question.tenant,
                "texts": texts,
            }
        ).encode()
        try:
            async with asyncio.timeout(rule.timeout_s):
                said = await (self._post(rule.url, body) if rule.kind == "http" else self._run(rule, body))
            answer = HookAnswer.model_validate_json(said)
        except TimeoutError:
            raise HookFailed(f"no answer within {rule.timeout_s:g} s") from None
        except ValidationError as error:
            raise HookFailed(f"not an answer: {error.errors()[0]['msg']}") from None
        except (aiohttp.ClientError, OSError, subprocess.SubprocessError, ValueError) as error:
            raise HookFailed(f"{type(error).__name__}: {error}") from error
        if answer.texts is not None and len(answer.texts) != len(texts):
            raise HookFailed(f"it was asked about {len(texts)} texts and answered {len(answer.texts)}")
        return answer

    async def close(self) -> None:
        """Close connections; commands under way end by their own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: str, body: bytes) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        headers = {"Content-Type": "application/json"}
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise HookFailed(f"it answered {answer.status}")
            said = await answer.content.read(MAX_ANSWER_BYTES + 1)
            while not answer.content.at_eof() and len(said) <= MAX_ANSWER_BYTES:
                said += await answer.content.read(MAX_ANSWER_BYTES + 1 - len(said))
        if len(said) > MAX_ANSWER_BYTES:
            raise HookFailed(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
        return said

    async def _run(self, rule: SafetyRule, body: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _run_command, rule.command, body, rule.timeout_s)


def _run_command(command: tuple[str, ...], body: bytes, timeout_s: float) -> bytes:
    """Run the command with `body` on its stdin; its stdout. Blocks. Raises HookFailed, OSError, SubprocessError.

    Past its time it is killed with all that it started. It does not get the gateway's environment: secrets are there.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: os.environ[name] for name in COMMAND_ENV if name in os.environ},
        start_new_session=True,
    ) as process:
        try:
            out, error = process.communicate(body, timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        said = error.decode(errors="replace").strip()[-200:]
        raise HookFailed(f"{command[0]} exited {process.returncode}: {said}")
    return out[:MAX_ANSWER_BYTES]
