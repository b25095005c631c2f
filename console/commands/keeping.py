"""`state check`, `state backup`, `state restore`: done on the store's file, with or without an engine."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.output import Outcome, Table, Text
from state.words import Conflict, Denied, ExitCode, OperationFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.commands.context import Context
    from state.paths import Paths


def check(context: Context) -> Outcome:
    """The file, the chain, the reserve, the backups."""
    from console.offline import OfflineStore

    paths = context.paths
    store = OfflineStore.open(paths)
    try:
        problems = store.integrity()
        chain: dict[str, Any] = (
            store.verify_audit()
            if not problems
            else {"ok": False, "rows": 0, "head": "", "why": "not walked: the file is damaged"}
        )
    finally:
        store.close()
    backups = sorted((paths.state / "backups").glob("*.db"))
    found = [
        ("file", not problems, problems or f"{paths.store}, sound"),
        ("audit chain", bool(chain["ok"]), str(chain["why"]) or f"{chain['rows']} rows, head {chain['head'][:12]}"),
        (
            "reserve",
            paths.reserve.exists(),
            "laid by" if paths.reserve.exists() else "missing; the engine lays it by when there is room",
        ),
        ("backups", True, f"{len(backups)}, newest {backups[-1].name}" if backups else "none yet"),
    ]
    items: list[dict[str, Any]] = [{"name": n, "ok": ok, "found": what} for n, ok, what in found]
    is_sound = not problems and chain["ok"]
    return Outcome(
        "Check",
        items,
        blocks=(Table(("CHECK", "SAYS", "FOUND"), [(n, "ok" if ok else "fail", w) for n, ok, w in found]),),
        names=[f"{n}/{'ok' if ok else 'fail'}" for n, ok, _ in found],
        exit=ExitCode.OK if is_sound else ExitCode.FAILED,
    )


def backup(context: Context, *, to: Path | None) -> Outcome:
    """A checked copy beside the store, and a second one at `to`."""
    from state.backup import back_up

    paths = context.paths
    if not paths.store.exists():
        raise OperationFailed(
            f"{paths.root} has no store yet: no engine has run here", hint="`airboss up -d` starts one", code="no_store"
        )
    if to is not None and to.exists():
        raise Conflict(f"{to} is there already; it was not touched", hint="name a new file", code="exists")
    if context.options.dry_run:
        return Outcome("Backup", [], blocks=(Text(f"would copy {paths.store}"),))
    try:
        copy = back_up(paths.store, reason="manual")
        if to is not None:
            shutil.copyfile(copy, to)
    except OSError as error:
        raise OperationFailed(
            f"the backup could not be written: {error}", hint="free disk space, or name another place"
        ) from error
    return Outcome(
        "Backup",
        [{"path": str(copy), "to": str(to) if to else None, "size": copy.stat().st_size}],
        blocks=(Text(f"backed up to {to or copy}"),),
        names=(str(to or copy),),
    )


def restore(context: Context, *, copy: Path | None) -> Outcome:
    """Put a backup in the store's place. The engine must be down; what stood there is kept."""
    from state.backup import newest_good
    from state.backup import restore as put_back

    paths = context.paths
    chosen = copy.expanduser().resolve() if copy is not None else newest_good(paths.store)
    _refuse_bad(chosen)
    if context.options.dry_run:
        return Outcome(
            "Restore", [{"from": str(chosen)}], blocks=(Text(f"would put {chosen} in the place of {paths.store}"),)
        )
    if context.is_read_only:
        raise Denied("restore changes the store, and this console is read-only", code="read_only")
    _confirm(context, chosen)
    with _engine_kept_out(paths):
        kept = put_back(paths.store, chosen)
    return Outcome(
        "Restore",
        [{"from": str(chosen), "kept": str(kept)}],
        names=(str(chosen),),
        blocks=(
            Text(
                f"restored {chosen}; what stood there is kept as {kept}\nthe engine will start paused: `airboss up -d`, then look"
            ),
        ),
    )


def _refuse_bad(copy: Path) -> None:
    import sqlite3
    from urllib.parse import quote

    try:
        connection = sqlite3.connect(f"file:{quote(str(copy))}?mode=ro", uri=True)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.execute("SELECT count(*) FROM audit").fetchone()
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise OperationFailed(
            f"{copy} is no good backup: {error}", hint="leave FILE out to take the newest good one"
        ) from error
    if found != ("ok",):
        raise OperationFailed(f"{copy} is damaged: {found[0]}", hint="leave FILE out to take the newest good one")


def _confirm(context: Context, chosen: Path) -> None:
    from console.commands.confirming import ask

    options, name = context.options, context.paths.root.name
    missing = [
        flag
        for flag, given in (
            (f"--confirm-name {name}", options.confirm_name),
            ("--yes", options.yes),
            ("--reason TEXT", options.reason),
        )
        if not given
    ]
    if missing and not context.can_ask:
        raise UsageError(
            f"a restore from {chosen.name} must be confirmed", hint=f"add {' '.join(missing)}", code="confirm"
        )
    typed = options.confirm_name or ask(f"type {name} to put {chosen.name} in the store's place: ")
    if typed != name:
        raise UsageError("not confirmed; nothing was done", hint=f"the name is {name}", code="not_confirmed")
    if not (options.reason or ask("reason: ")):
        raise UsageError("a restore takes a reason; nothing was done", hint="add --reason TEXT", code="not_confirmed")


@contextmanager
def _engine_kept_out(paths: Paths) -> Iterator[None]:
    """Hold the engine's own lock. Raises Conflict when an engine has it."""
    lock = os.open(paths.engine_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                "the engine runs; a restore needs it down",
                hint="`airboss down --yes`; what serves goes on",
                code="engine_is_up",
            ) from None
        yield
    finally:
        os.close(lock)
