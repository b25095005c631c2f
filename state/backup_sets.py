"""Whole backups: a copy of the store, the configuration and the known-good bundles, with a manifest that says what is in it.

    STAMP-REASON.db      the store's copy
    STAMP-REASON.toml    airboss.toml as it was
    STAMP-REASON.json    the manifest
    bundles/DIGEST/      bundles, each once, whatever number of backups wants it

Standard library only: it must work when nothing else does.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from state import bundle_copies
from state.backup import KEEP, back_up, copies, is_ours, read_only, unsound, write_whole
from state.bundle_copies import KnownGood
from state.chain import walk_file
from state.digests import file_sha256
from state.words import OperationFailed

BUNDLES = "bundles"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup. `trouble` is what could not be kept in it; a copy without a manifest (of an older program) knows little."""

    store: Path
    made_at: float
    reason: str
    size: int
    schema: str = ""
    sha256: str = ""
    audit_rows: int = 0
    audit_head: str = ""
    config_sha256: str = ""
    releases: tuple[KnownGood, ...] = ()
    trouble: tuple[str, ...] = ()

    @property
    def config(self) -> Path:
        """airboss.toml as it was."""
        return self.store.with_suffix(".toml")

    @property
    def manifest(self) -> Path:
        """What says all this."""
        return self.store.with_suffix(".json")

    @property
    def bundles(self) -> Path:
        """The bundles of all backups in this directory."""
        return self.store.parent / BUNDLES


def take(
    store: Path,
    *,
    reason: str,
    directory: Path,
    config: Path | None,
    with_bundles: bool = True,
    keep: int = KEEP,
    copier: Callable[[Path], None] | None = None,
) -> Backup:
    """Make a whole backup in `directory`, check it, and prune those of the same reason beyond `keep`.

    `copier` writes the copy of a store that is no file (`state.databases.copier`). A broken audit chain, or a bundle that is gone, does not hinder it: it stands in the backup's `trouble`. Raises
    OperationFailed when the store's copy is not sound, OSError when there is no room.
    """
    with _alone(directory):
        started = time.time()
        copy = back_up(store, reason=reason, directory=directory, keep=keep, copier=copier)
        try:
            made = _described(copy, reason, started, config, with_bundles)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        _prune(directory)
    return made


def _described(copy: Path, reason: str, made_at: float, config: Path | None, with_bundles: bool) -> Backup:
    with closing(read_only(copy)) as connection:
        chain = walk_file(connection)
        schema = str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    trouble = [] if chain.is_whole else [f"the audit chain is broken: {chain.why}"]
    config_sha = ""
    if config is not None and config.is_file():
        shutil.copyfile(config, copy.with_suffix(".toml"))
        config_sha = file_sha256(copy.with_suffix(".toml"))
    releases: tuple[KnownGood, ...] = ()
    if with_bundles:
        releases = bundle_copies.known_good(copy)
        trouble += [why for one in releases if (why := bundle_copies.keep(copy.parent / BUNDLES, one))]
    made = Backup(
        store=copy,
        made_at=made_at,
        reason=reason,
        size=copy.stat().st_size,
        schema=schema,
        sha256=file_sha256(copy),
        audit_rows=chain.rows,
        audit_head=chain.head,
        config_sha256=config_sha,
        releases=releases,
        trouble=tuple(trouble),
    )
    write_whole(made.manifest, json.dumps({**asdict(made), "store": copy.name}, sort_keys=True))
    return made


def backups(*directories: Path) -> list[Backup]:
    """Every backup in these directories, oldest first."""
    found = [read(copy) for directory in directories for copy in copies(directory)]
    return sorted(found, key=lambda backup: backup.made_at)


def read(copy: Path) -> Backup:
    """The backup whose store's copy is `copy`, by its manifest if it has a readable one."""
    try:
        body = json.loads(copy.with_suffix(".json").read_text(encoding="utf-8"))
        releases = tuple(KnownGood(**one) for one in body["releases"])
        return Backup(**{**body, "store": copy, "releases": releases, "trouble": tuple(body["trouble"])})
    except (OSError, ValueError, KeyError, TypeError):
        stat = copy.stat()
        return Backup(copy, stat.st_mtime, copy.stem.rpartition("-")[2], stat.st_size)


def verify(backup: Backup, *, with_bundles: bool = True) -> tuple[str, ...]:
    """What is wrong with a backup: the file, the audit chain, what its manifest says. Hashes all its bundles unless told not to."""
    wrong = unsound(backup.store)
    if wrong:
        return (f"{backup.store.name}: {wrong}",)
    found = list(backup.trouble)
    with closing(read_only(backup.store)) as connection:
        chain = walk_file(connection)
    if not chain.is_whole:
        found.append(f"the audit chain is broken: {chain.why}")
    if backup.sha256 and file_sha256(backup.store) != backup.sha256:
        found.append(f"{backup.store.name} is not the file that its manifest describes")
    if backup.audit_head and chain.head != backup.audit_head:
        found.append("the audit chain does not end where the manifest says")
    if backup.config_sha256 and (not backup.config.is_file() or file_sha256(backup.config) != backup.config_sha256):
        found.append(f"{backup.config.name} is missing or was changed")
    if with_bundles:
        for one in backup.releases:
            if why := bundle_copies.trouble(backup.bundles / one.digest, one.digest):
                found.append(f"{one.release}: {why}")
    return tuple(dict.fromkeys(found))


def put_bundles_back(backup: Backup) -> list[str]:
    """Have every known-good bundle of the backup where it is served from. Returns what was done and what cannot be."""
    said = []
    for one in backup.releases:
        try:
            said.append(bundle_copies.put_back(backup.bundles, one))
        except OSError as error:
            said.append(f"{one.release}: its bundle could not be put back: {error}")
    return [line for line in said if line]


def _prune(directory: Path) -> None:
    """Remove what belongs to copies that are gone: manifests, configurations, bundles that no backup wants."""
    there = {copy.stem for copy in copies(directory)}
    for suffix in ("json", "toml"):
        for path in directory.glob(f"*.{suffix}"):
            if is_ours(path) and path.stem not in there:
                path.unlink(missing_ok=True)
    wanted = {one.digest for backup in backups(directory) for one in backup.releases}
    kept = directory / BUNDLES
    for place in kept.iterdir() if kept.is_dir() else ():
        if bundle_copies.is_digest(place.name) and place.name not in wanted:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One backup at a time in a directory: pruning must not meet one that is being made. Raises OperationFailed."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperationFailed(
                f"another backup is being made in {directory}", hint="try again in a moment"
            ) from None
        yield
    finally:
        os.close(lock)
