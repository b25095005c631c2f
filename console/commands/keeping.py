"""`state check`, `backup`, `backups` and `restore`: done on the store's file, with or without an engine."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.output import Outcome, Table, Text
from state.backup import write_whole
from state.words import Conflict, Denied, ExitCode, OperationFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.commands.context import Context
    from state.backup_sets import Backup
    from state.paths import Paths


def check(context: Context) -> Outcome:
    """The file, the chain, the reserve, the backups."""
    from console.offline import OfflineStore
    from console.offline_file import server_of
    from state.backup_sets import backups as stored

    paths, is_served = context.paths, server_of(context.paths) is not None
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
    kept = stored(*directories(context))
    found = [
        (
            "server" if is_served else "file",
            not problems,
            problems or f"{store.name}, {'readable' if is_served else 'sound'}",
        ),
        ("audit chain", bool(chain["ok"]), str(chain["why"]) or f"{chain['rows']} rows, head {chain['head'][:12]}"),
        *(
            []
            if is_served
            else [
                (
                    "reserve",
                    paths.reserve.exists(),
                    "laid by" if paths.reserve.exists() else "missing; the engine lays it by when there is room",
                )
            ]
        ),
        ("backups", True, f"{len(kept)}, newest {kept[-1].store.name}" if kept else "none yet"),
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


def directories(context: Context) -> list[Path]:
    """Where backups are: the workspace's own place first, then the one that airboss.toml names. A broken file names none."""
    from state.words import AirbossError

    try:
        to = context.config.state.backup.to
    except AirbossError:
        to = None
    return [context.paths.backups, *([to] if to else [])]


def backup(context: Context, *, to: Path | None) -> Outcome:
    """A whole, checked backup in the place for backups, and a second copy of the store at `to`."""
    from console.offline_file import has_store
    from state.backup_sets import take
    from state.databases import copier

    paths = context.paths
    if not has_store(paths):
        raise OperationFailed(
            f"{paths.root} has no store yet: no engine has run here", hint="`airboss up -d` starts one", code="no_store"
        )
    if to is not None and to.exists():
        raise Conflict(f"{to} is there already; it was not touched", hint="name a new file", code="exists")
    place = directories(context)[-1]
    if context.options.dry_run:
        return Outcome("Backup", [], blocks=(Text(f"would copy {context.config.state.url or paths.store} to {place}"),))
    try:
        made = take(
            paths.store, reason="manual", directory=place, config=paths.root / "airboss.toml",
            copier=copier(context.config.state, paths),
        )  # fmt: skip
        if to is not None:
            shutil.copyfile(made.store, to)
    except OSError as error:
        raise OperationFailed(
            f"the backup could not be written: {error}", hint="free disk space, or name another place"
        ) from error
    said = f"backed up to {to or made.store}: {made.audit_rows} audit rows, {len(made.releases)} known-good bundles"
    return Outcome(
        "Backup",
        [{**_backup_item(made), "to": str(to) if to else None}],
        blocks=(Text(said), *(Text(f"not in it: {why}") for why in made.trouble)),
        names=(str(to or made.store),),
        exit=ExitCode.FAILED if made.trouble else ExitCode.OK,
    )


def backups(context: Context, *, verify: bool) -> Outcome:
    """Every backup, newest first; with `verify`, each read and checked whole."""
    from console.commands.format import ago
    from state.backup_sets import backups as found
    from state.backup_sets import verify as check_one

    now, items = time.time(), []
    for one in reversed(found(*directories(context))):
        wrong = check_one(one) if verify else one.trouble
        items.append({**_backup_item(one), "age_s": now - one.made_at, "verified": verify, "trouble": list(wrong)})
    rows = [
        (i["name"], ago(i["made_at"], now), i["reason"], f"{i['size'] / 1e6:.1f} MB", str(i["audit_rows"] or "-"),
         str(len(i["releases"])), "; ".join(i["trouble"]) or ("checked" if verify else "-"))
        for i in items
    ]  # fmt: skip
    table = Table(
        ("BACKUP", "AGE", "REASON", "SIZE", "AUDIT ROWS", "BUNDLES", "FOUND"), rows, frozenset({1, 3, 4, 5}),
        empty="none yet; `airboss state backup` makes one",
    )  # fmt: skip
    bad = verify and any(i["trouble"] for i in items)
    return Outcome(
        "Backup", items, blocks=(table,), names=[f"backup/{i['name']}" for i in items],
        exit=ExitCode.FAILED if bad else ExitCode.OK,
    )  # fmt: skip


def _backup_item(one: Backup) -> dict[str, Any]:
    return {
        "name": one.store.stem, "path": str(one.store), "made_at": one.made_at, "reason": one.reason, "size": one.size,
        "schema": one.schema, "sha256": one.sha256, "audit_rows": one.audit_rows, "audit_head": one.audit_head,
        "releases": [release.release for release in one.releases], "trouble": list(one.trouble),
    }  # fmt: skip


def restore(context: Context, *, copy: Path | None, with_config: bool) -> Outcome:
    """Put a backup in the store's place. The engine must be down; what stood there is kept."""
    from state.backup import newest_good, unsound
    from state.backup_sets import put_bundles_back, read

    paths = context.paths
    where = context.config.state.url or str(paths.store)
    chosen = _named(context, copy) if copy is not None else newest_good(*directories(context))
    if wrong := unsound(chosen):
        raise OperationFailed(f"{chosen} is no good backup: {wrong}", hint="leave FILE out to take the newest good one")
    one = read(chosen)
    if context.options.dry_run:
        said = f"would put {chosen} ({one.audit_rows or '?'} audit rows) in the place of {where}"
        return Outcome("Restore", [{"from": str(chosen)}], blocks=(Text(said), *_config_lines(paths, one, with_config)))
    if context.is_read_only:
        raise Denied("restore changes the store, and this console is read-only", code="read_only")
    reason = _confirm(context, chosen)
    with _engine_kept_out(paths):
        facts = {"actor": f"user:{user_name()}", "uid": os.getuid(), "reason": reason, "made_at": one.made_at}
        kept = _put_back(context, chosen, facts)
        if with_config and one.config.is_file():
            config = paths.root / "airboss.toml"
            shutil.copyfile(config, paths.state / f"{Path(kept or 'nothing').name}.airboss.toml")
            write_whole(config, one.config.read_text(encoding="utf-8"))
        bundles = put_bundles_back(one)
    return Outcome(
        "Restore",
        [{"from": str(chosen), "kept": kept, "made_at": one.made_at, "bundles": bundles}],
        names=(str(chosen),),
        blocks=(
            Text(f"restored {chosen} into {where}" + (f"; what stood there is kept as {kept}" if kept else "")),
            *(Text(line) for line in bundles),
            *_config_lines(paths, one, with_config),
            Text("the engine will start paused and touch nothing: `airboss up -d`, then `airboss state diff`"),
        ),
    )


def _put_back(context: Context, copy: Path, facts: dict[str, Any]) -> str:
    """Restore into whatever the records are in. Returns where what stood there is kept: a file, or a schema of the database."""
    paths, settings = context.paths, context.config.state
    if settings.url is None:
        from state.backup import restore as put_back

        return str(put_back(paths.store, copy, facts))
    from state.databases import password
    from state.postgres import Postgres
    from state.transfer import put_in

    kept = put_in(Postgres(settings.url, paths.root, password(settings, paths)), copy, paths.store, facts)
    return f"schema {kept}" if kept else ""


def _named(context: Context, copy: Path) -> Path:
    """The file meant: a path, or the name of a backup as `state backups` shows it. Raises UsageError."""
    names = [place / f"{copy.name}.db" for place in directories(context)]
    for path in (copy.expanduser(), *names):
        if path.is_file():
            return path.resolve()
    raise UsageError(f"there is no backup {copy}", hint="`airboss state backups` shows them", code="no_backup")


def _config_lines(paths: Paths, one: Backup, with_config: bool) -> list[Text]:
    """What a person must know about airboss.toml: the backup's is another one."""
    if with_config or not one.config.is_file():
        return []
    now = (paths.root / "airboss.toml").read_bytes()
    if now == one.config.read_bytes():
        return []
    return [
        Text(f"airboss.toml has changed since and was left alone; that of then is {one.config} (--config puts it back)")
    ]


def user_name() -> str:
    """Who runs this, as the operating system says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid:{os.getuid()}"


def _confirm(context: Context, chosen: Path) -> str:
    """Have name and reason; the reason. Raises UsageError."""
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
    reason = options.reason or ask("reason: ")
    if not reason:
        raise UsageError("a restore takes a reason; nothing was done", hint="add --reason TEXT", code="not_confirmed")
    return reason


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
