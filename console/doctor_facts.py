"""What is read for the five faults: the engine's views, the ends of logs, and what each process says of itself."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from state.words import AirbossError

if TYPE_CHECKING:
    from console.commands.context import Context

ASK_S = 10.0
"""How long a replica gets for the two short answers that are compared."""
TOKENS = 12
PROMPT = "The same question twice."
LOG_LINES = 400
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*?)\})? ([0-9.eE+-]+|NaN)$")


@dataclass(frozen=True, slots=True)
class Replica:
    """One living model server: whose it is, its metrics, and its answers to one question asked twice without chance."""

    spawn_id: str
    service: str
    env: str
    release_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Sums over labels but `reason`: `name` or `name/reason`."""
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read. Lists are empty where nobody could be asked."""

    fleet: Sequence[Mapping[str, Any]] = ()
    slos: Sequence[Mapping[str, Any]] = ()
    serving: Sequence[Mapping[str, Any]] = ()
    alerts: Sequence[Mapping[str, Any]] = ()
    rollouts: Sequence[Mapping[str, Any]] = ()
    logs: Sequence[Mapping[str, Any]] = ()
    """The ends of the replicas' logs: id, release_id, state, end_cause, text."""
    replicas: tuple[Replica, ...] = ()
    rejected: Mapping[str, float] = field(default_factory=dict)
    """The gateway's own refusals since it started, by reason."""
    oom_kills: int = 0
    """Processes that the kernel ended for memory in this control group."""
    load: float = 0.0
    cores: int = 1
    has_gpu_driver: bool = False


def gather(context: Context) -> Facts:
    """Read it all; what cannot be read is left out."""
    from console.commands.children import serving_children

    def ask(path: str, params: Mapping[str, Any] | None = None) -> list[Any]:
        try:
            return list(context.get(path, params))
        except AirbossError:
            return []

    fleet = ask("/v1/fleet")
    logs = [
        {**log, "service": service}
        for service in dict.fromkeys(str(row["service"]) for row in fleet)
        for log in ask(f"/v1/services/{service}/logs", {"tail": LOG_LINES})
    ]
    rejected: dict[str, float] = {}
    for child in serving_children(context.paths, ("gateway",)):
        for name, n in _metrics(str(child["socket"])).items():
            if name.startswith("airboss_rejected_total/"):
                reason = name.partition("/")[2]
                rejected[reason] = rejected.get(reason, 0.0) + n
    replicas = tuple(_replica(child) for child in serving_children(context.paths, ("model",)))
    return Facts(
        fleet, ask("/v1/slos"), ask("/v1/serving"), ask("/v1/alerts"), ask("/v1/rollouts"), logs, replicas, rejected,
        _oom_kills(), os.getloadavg()[0], len(os.sched_getaffinity(0)), Path("/proc/driver/nvidia/version").exists(),
    )  # fmt: skip


def _replica(child: Mapping[str, Any]) -> Replica:
    socket = str(child["socket"])
    return Replica(
        str(child["spawn_id"]),
        str(child["service"]),
        str(child["env"]),
        str(child["release_id"]),
        _metrics(socket),
        _asked(socket),
    )


def _metrics(socket: str) -> dict[str, float]:
    """A process's metrics, summed over every label but `reason`."""
    from console.commands.admin_socket import request

    found: dict[str, float] = {}
    try:
        status, body = request(socket, "GET", "/metrics")
    except OSError:
        return found
    for line in body.decode("utf-8", errors="replace").splitlines() if status == 200 else ():
        if match := _SAMPLE.match(line):
            name, labels, value = match.groups()
            reason = re.search(r'reason="([^"]*)"', labels or "")
            key = f"{name}/{reason.group(1)}" if reason else name
            found[key] = found.get(key, 0.0) + (0.0 if value == "NaN" else float(value))
    return found


def _asked(socket: str) -> tuple[str, ...]:
    """The same question twice; nothing where the replica does not answer it."""
    from console.commands.admin_socket import request

    body = json.dumps({"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "seed": 1})
    said = []
    try:
        for _ in range(2):
            status, answer = request(socket, "POST", "/v1/completions", body, timeout_s=ASK_S)
            if status != 200:
                return ()
            said.append(str(json.loads(answer)["choices"][0]["text"]))
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return ()
    return tuple(said)


def _oom_kills(file: Path = Path("/sys/fs/cgroup/memory.events")) -> int:
    try:
        counts = dict(line.split() for line in file.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))
