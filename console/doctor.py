"""`airboss doctor`: what is wrong here, and what to do about it. Looks, never mends."""

from __future__ import annotations

import importlib.util
import locale
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from console.commands.format import ago
from console.output import Outcome, Table
from state.words import AirbossError, ExitCode, Unreachable

if TYPE_CHECKING:
    from console.commands.context import Context
    from state.config import Config

RESERVE_BYTES = 64 * 1024 * 1024
LOW_DISK_BYTES = 2 * 1024**3
NEEDED = ("torch", "mlflow", "safetensors", "aiohttp", "uvicorn", "sqlmodel", "alembic", "textual")
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs"})
Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    level: Level
    found: str
    todo: str = ""


def examine(context: Context) -> Outcome:
    """Every check, in the order in which one mends things. Exit 1 when one fails."""
    checks: list[Check] = []
    for look in (_python, _packages, _accelerator, _terminal, _workspace):
        checks += look(context)
    if checks[-1].level != "fail":
        for look in (_directory, _disk, _store, _engine, _gateway, _faults, _access, _clusters, _metrics, _paging):
            checks += _guarded(look, context)
    rows = [(c.name, c.level, c.found, c.todo or "-") for c in checks]
    failed = sum(c.level == "fail" for c in checks)
    items: list[dict[str, Any]] = [{"name": c.name, "level": c.level, "found": c.found, "todo": c.todo} for c in checks]
    return Outcome(
        "Check",
        items,
        blocks=(Table(("CHECK", "SAYS", "FOUND", "DO"), rows),),
        names=[f"{c.name}/{c.level}" for c in checks],
        exit=ExitCode.FAILED if failed else ExitCode.OK,
    )


def _guarded(look: Callable[[Context], Iterator[Check]], context: Context) -> list[Check]:
    """One check's own failure must not hide the others."""
    try:
        return list(look(context))
    except AirbossError as error:
        return [Check(look.__name__.strip("_"), "fail", error.message, error.hint)]


def _python(_context: Context) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Check(
        "python", "ok" if good else "fail", f"{version} at {sys.executable}", "" if good else "use Python 3.11 or newer"
    )


def _packages(_context: Context) -> Iterator[Check]:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    yield Check(
        "packages",
        "fail" if missing else "ok",
        f"missing: {', '.join(missing)}" if missing else "all there",
        "install airboss again into this environment" if missing else "",
    )


def _accelerator(_context: Context) -> Iterator[Check]:
    driver = Path("/proc/driver/nvidia/version")
    cores = len(os.sched_getaffinity(0))
    yield Check(
        "compute",
        "ok",
        f"{cores} cores, {'an NVIDIA driver' if driver.exists() else 'no GPU: models run on the processor'}",
    )


def _terminal(_context: Context) -> Iterator[Check]:
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") != "utf8":
        yield Check(
            "terminal", "warn", f"the locale's encoding is {encoding}", "set LANG=C.UTF-8: boxes and bars need it"
        )
        return
    yield Check("terminal", "ok", f"{os.environ.get('TERM', 'none')}, {encoding}")


def _workspace(context: Context) -> Iterator[Check]:
    try:
        config = context.config
    except AirbossError as error:
        yield Check("workspace", "fail", error.message, error.hint)
        return
    yield Check(
        "workspace",
        "ok",
        f"{context.paths.root}: {len(config.service)} services, {len(config.environment)} environments",
    )


def _directory(context: Context) -> Iterator[Check]:
    paths = context.paths
    place = paths.state if paths.state.exists() else paths.root
    if not os.access(place, os.W_OK):
        yield Check("state", "fail", f"{place} cannot be written", "mend its permissions: the engine writes there")
        return
    kind = _file_system(place)
    if kind in NETWORK_FILE_SYSTEMS:
        yield Check(
            "state", "fail", f"{place} is on {kind}, where locks do not hold", "keep the workspace on a local disk"
        )
        return
    longest = len(os.fsencode(str(paths.sockets / "g-xxxxxxxxxxxx.fd.sock")))
    if longest > 107:
        yield Check(
            "sockets",
            "fail",
            f"{paths.sockets}: paths of {longest} bytes; the kernel takes 107",
            "set XDG_RUNTIME_DIR to a shorter directory",
        )
        return
    yield Check("state", "ok", f"{place} ({kind or 'unknown file system'})")


def _file_system(place: Path) -> str:
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for fields in (line.split() for line in lines):
        where = fields[1].replace("\\040", " ")
        if place.is_relative_to(where) and len(where) >= len(best):
            best, kind = where, fields[2]
    return kind


def _disk(context: Context) -> Iterator[Check]:
    from console.offline_file import server_of

    free = shutil.disk_usage(context.paths.root).free
    enough = free > LOW_DISK_BYTES
    yield Check(
        "disk",
        "ok" if enough else "warn",
        f"{free / 1024**3:.1f} GiB free",
        "" if enough else "free some: releases, logs and the store grow",
    )
    reserve = context.paths.reserve
    if (
        context.paths.store.exists()
        and server_of(context.paths) is None
        and not (reserve.exists() and reserve.stat().st_size >= RESERVE_BYTES)
    ):
        yield Check(
            "reserve",
            "warn",
            "the 64 MiB that keep a rollback writable on a full disk are not laid by",
            "free disk space and restart the engine",
        )


def _store(context: Context) -> Iterator[Check]:
    from console.offline import OfflineStore
    from console.offline_file import has_store, server_of

    if not has_store(context.paths):
        yield Check("store", "ok", "none yet: the first `airboss up` makes it")
        return
    store = OfflineStore.open(context.paths)
    try:
        problems = store.integrity()
        if problems:
            yield Check("store", "fail", problems, "`airboss down`, then `airboss state restore`")
            return
        chain = store.verify_audit()
        size = f"{context.paths.store.stat().st_size / 1024**2:.1f} MiB, " if context.paths.store.exists() else ""
        yield Check("store", "ok", f"{store.name}, readable" if server_of(context.paths) else f"{size}sound")
        yield Check(
            "audit",
            "ok" if chain["ok"] else "fail",
            chain["why"] or f"{chain['rows']} rows, whole",
            "" if chain["ok"] else "someone changed history: keep a copy of .airboss and find out who",
        )
    finally:
        store.close()


def _engine(context: Context) -> Iterator[Check]:
    from state.locks import is_locked

    try:
        health = context.get("/v1/health")
    except Unreachable:
        if is_locked(context.paths.engine_lock):
            yield Check(
                "engine",
                "fail",
                "it holds its lock and does not answer",
                f"look into {context.paths.logs / 'engine.log'}; "
                "`airboss rollback SERVICE --emergency` works without it",
            )
        else:
            yield Check("engine", "warn", "not running", "`airboss up -d`")
        return
    yield Check("engine", "ok", f"pid {health.get('pid')}, version {health.get('version')}")
    status = context.get("/v1/status")
    adapters = status.get("adapters", {})
    yield Check("adapters", "ok", ", ".join(f"{name}: {state}" for name, state in sorted(adapters.items())) or "none")
    for gone in status.get("down", ()):
        found = f"down for {ago(gone['since'], time.time())}: {gone['error']}; goes on: {gone['goes_on']}"
        yield Check(gone["name"], "warn", found, "see what it said; it is asked again by itself")
    loud = [alert for alert in context.get("/v1/alerts") if alert["severity"] != "info"]
    if loud:
        named = ", ".join(sorted({alert["name"] for alert in loud}))
        yield Check("alerts", "warn", f"{len(loud)} active: {named}", "`airboss alert list`")


def _gateway(context: Context) -> Iterator[Check]:
    from console.commands.children import serving_children

    workers = serving_children(context.paths, ("gateway",))
    host, port = context.config.gateway.address
    if workers:
        yield Check("gateway", "ok", f"{len(workers)} workers alive, listening as {context.config.gateway.listen}")
    elif port and not _can_bind(host, port):
        yield Check(
            "gateway",
            "fail",
            f"{context.config.gateway.listen} is taken by another program",
            f"`ss -ltnp 'sport = :{port}'` shows it; or change [gateway] listen",
        )
    else:
        yield Check("gateway", "ok", f"not running; {context.config.gateway.listen} is free")


def _faults(context: Context) -> Iterator[Check]:
    from console.doctor_faults import look

    yield from (Check(*found) for found in look(context))


def _access(context: Context) -> Iterator[Check]:
    """A port that others can reach, and who may use it."""
    from console.public_port import access_findings

    yield from (
        Check(f.name, f.level, f.found, f.fix) for f in access_findings(context.config.gateway, context.paths.root)
    )


def _clusters(context: Context) -> Iterator[Check]:
    """Clusters that rollouts run in, and what is not allowed there."""
    from console.doctor_cluster import findings

    yield from (Check(*found) for found in findings(context.config, context.paths.root))


def _metrics(context: Context) -> Iterator[Check]:
    """What the judge would find at the Prometheus server."""
    from console.metrics_check import findings

    for name, is_well, found, todo in findings(context):
        yield Check(name, "ok" if is_well else "warn", found, "" if is_well else todo)


def _can_bind(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _paging(context: Context) -> Iterator[Check]:
    config: Config = context.config
    alerts = config.alerts
    ways = [
        *(["webhook"] if alerts.webhook else []),
        *([f"command {alerts.command[0]}"] if alerts.command else []),
        *(f"alertmanager {url}" for url in alerts.alertmanager),
    ]
    if ways:
        yield Check("paging", "ok", ", ".join(ways))
    else:
        yield Check(
            "paging", "warn", "no one is paged", "set webhook, command or alertmanager under [alerts] in airboss.toml"
        )
