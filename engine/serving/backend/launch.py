"""From settings to a command line: where the foreign server listens, what it is started with, how it is reached."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from engine.serving.backend.settings import CommandSettings, Settings, VllmSettings
from state.words import ConfigError, OperationFailed

HOST = "127.0.0.1"
_PLACE = re.compile(r"\{([a-z_]+)\}")
_IMPORT_TIMEOUT_S = 60.0
_VLLM = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True, slots=True)
class Places:
    """What may be put into a command's words."""

    port: int
    metrics_port: int
    socket: str
    model: str
    model_name: str
    api_key: str
    host: str = HOST

    def words(self) -> Mapping[str, str]:
        """Each by its name between braces."""
        return {name: str(getattr(self, name)) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Launch:
    """How a foreign server is started and reached. `uds` is its Unix socket, "" when it listens on a port."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    base: str
    uds: str
    metrics_url: str
    api_key: str
    """Sent as a bearer token; "" when the server was not given one."""


def plan_launch(settings: Settings, places: Places) -> Launch:
    """The launch of a backend. Raises ConfigError when a word names a place that there is not."""
    argv = vllm_argv(settings) if isinstance(settings, VllmSettings) else settings.command
    env = {**_VLLM_ENV, **settings.env} if isinstance(settings, VllmSettings) else settings.env
    texts = (*argv, *env.values())
    uses = {name for text in texts for name in _PLACE.findall(text)}
    by_socket = "socket" in uses and "port" not in uses
    base = "http://backend" if by_socket else f"http://{places.host}:{places.port}"
    metrics = f"http://{places.host}:{places.metrics_port}" if "metrics_port" in uses else base
    words = places.words()
    return Launch(
        argv=tuple(_filled(word, words) for word in argv),
        env={name: _filled(value, words) for name, value in env.items()},
        base=base,
        uds=places.socket if by_socket else "",
        metrics_url=metrics + settings.metrics_path,
        api_key=places.api_key if "api_key" in uses else "",
    )


def _filled(text: str, words: Mapping[str, str]) -> str:
    def place(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in words:
            raise ConfigError(
                f"the backend's command names {{{name}}}, which is no place",
                hint="there are " + " ".join(f"{{{known}}}" for known in words),
            )
        return words[name]

    return _PLACE.sub(place, text)


_VLLM_ENV = {"VLLM_API_KEY": "{api_key}", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
"""A key, because the port is open to every user of this host; nothing fetched and nothing reported behind our back."""


def vllm_argv(settings: VllmSettings) -> tuple[str, ...]:
    """vLLM's command line, with places."""
    words = [
        settings.python or sys.executable,
        "-m",
        _VLLM,
        "--model",
        "{model}",
        "--served-model-name",
        "{model_name}",
    ]
    words += ["--host", "{host}", "--port", "{port}", "--dtype", settings.dtype]
    words += ["--tensor-parallel-size", str(settings.tensor_parallel)]
    for name, value in (
        ("--max-model-len", settings.max_model_len),
        ("--quantization", settings.quantization or None),
        ("--gpu-memory-utilization", settings.gpu_memory_utilization),
        ("--max-num-seqs", settings.max_num_seqs),
    ):
        if value is not None:
            words += [name, str(value)]
    return (*words, *settings.extra_args)


def refuse_what_cannot_start(settings: Settings) -> None:
    """Say what is missing before anything is started. Blocks; raises OperationFailed."""
    if isinstance(settings, CommandSettings):
        program = settings.command[0]
        if shutil.which(program) is None:
            raise OperationFailed(
                f"the backend's program {program} is not there, or may not be run",
                hint="install it, or name it with its whole path in `command`",
                code="backend_missing",
            )
        return
    python = settings.python or sys.executable
    try:
        found = subprocess.run(
            [python, "-P", "-c", "import importlib.util as u, sys; sys.exit(3 if u.find_spec('vllm') is None else 0)"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_IMPORT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperationFailed(
            f"the interpreter {python} for vLLM cannot be run: {error}",
            hint="`python` in the serving table is the path of the interpreter that has vLLM",
            code="backend_missing",
        ) from error
    if found.returncode:
        raise OperationFailed(
            f"vLLM is not installed for {python}",
            hint=f"`{python} -m pip install vllm`, or set `python` to the interpreter of an environment that has it",
            code="backend_missing",
        )


def free_port() -> int:
    """A loopback port that is free now. Should another take it first, the server cannot bind, dies, and is restarted."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def inherited_environment() -> dict[str, str]:
    """The front's own environment (clean already), less what makes a foreign Python ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OMP_"))}
