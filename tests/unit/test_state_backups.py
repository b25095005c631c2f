"""Whole backups: what is in them, what a check finds, what is pruned, when one is due, and what a restore brings back."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import CHARS, gpt_bundle
from sqlmodel import Session

from engine.backups import BackupKeeper, is_due, wrong
from engine.serving.models.gpt import GPTConfig
from state import audit
from state.backup import UNFINISHED, newest_good, restore
from state.backup_sets import Backup, backups, put_bundles_back, take, verify
from state.models import Release, Rollout, TrackState
from state.paths import Paths
from state.store import Store
from state.store_config import BackupConfig, StateConfig
from state.words import OperationFailed

HOUR = 3600.0


def release(name: str, digest: str, bundle: Path, lifecycle: str = "Production") -> Release:
    return Release(id=name, service="chat", lifecycle=lifecycle, model_name="m", model_version="", digest=digest,
                   bundle_path=str(bundle), created_by="user:ann", created_at=0.0)  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    found.state.mkdir()
    (tmp_path / "airboss.toml").write_text("# as it was\n")
    return found


@pytest.fixture
def store(paths: Paths) -> Iterator[Store]:
    """A store with a live release, one that was live before, a rejected one and one that never rolled out."""
    config = GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=len(CHARS))
    digests = {
        name: gpt_bundle(paths.releases / name, config, seed=seed, release_id=name)
        for seed, name in enumerate(("live", "before", "bad", "new"))
    }

    def fill(session: Session) -> None:
        for name, digest in digests.items():
            session.add(release(name, digest, paths.releases / name, "Rejected" if name == "bad" else "Production"))
        for number, name in enumerate(("before", "live", "bad")):
            session.add(
                Rollout(id=f"ro-{number}", service="chat", env="production", target="local", strategy="canary",
                        to_release=name, state="completed", created_by="user:ann", created_at=0.0, state_since=0.0)
            )  # fmt: skip
        session.add(
            TrackState(service="chat", env="production", target="local", track="stable", release_id="live", weight=100, since=0.0)
        )  # fmt: skip
        audit.append(session, actor="user:ann", action="note", ref="service:chat", detail={"é": 1})

    opened = Store.open(paths.store)
    opened.write_now(fill)
    yield opened
    opened.close()


def backed_up(paths: Paths, *, reason: str = "test", keep: int = 14, to: Path | None = None) -> Backup:
    return take(
        paths.store, reason=reason, directory=to or paths.backups, config=paths.root / "airboss.toml", keep=keep
    )


def test_a_backup_has_the_store_the_configuration_and_the_known_good_bundles(store: Store, paths: Paths) -> None:
    made = backed_up(paths)
    assert made.audit_rows == 1 and made.audit_head == store.read_now(audit.head)
    assert [one.release for one in made.releases] == ["before", "live"]
    assert made.config.read_text() == "# as it was\n"
    assert verify(made) == () and backups(paths.backups) == [made]
    kept = made.bundles / made.releases[0].digest / "model.safetensors"
    assert kept.stat().st_ino == (paths.releases / "before" / "model.safetensors").stat().st_ino, "a hard link: no room"


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("page", "state"),
        ("audit", "row 1 does not follow from row 0"),
        ("config", "was changed"),
        ("bundle", "before: "),
        ("swapped", "not the file that its manifest describes"),
    ],
)
def test_a_check_of_a_backup_says_what_is_wrong_with_it(store: Store, paths: Paths, damage: str, found: str) -> None:
    made = backed_up(paths)
    if damage == "page":
        made.store.write_bytes(made.store.read_bytes()[:5000] + os.urandom(9000))
        found = made.store.name
    elif damage in ("audit", "swapped"):
        with sqlite3.connect(made.store) as connection:
            connection.execute("DROP TRIGGER audit_no_update")
            if damage == "audit":
                connection.execute("UPDATE audit SET detail = '{', actor = 'user:mallory' WHERE id = 1")
        connection.close()
    elif damage == "config":
        made.config.write_text("# as it was not\n")
    else:
        path = made.bundles / made.releases[0].digest / "config.json"
        path.write_text(path.read_text() + " ")
    assert any(found in line for line in verify(made)), verify(made)


def test_an_altered_bundle_is_not_kept_and_the_backup_says_so(store: Store, paths: Paths) -> None:
    (paths.releases / "before" / "config.json").write_text("{}")
    made = backed_up(paths)
    assert len(made.trouble) == 1 and "before" in made.trouble[0] and "was altered" in made.trouble[0]
    assert len(list(made.bundles.iterdir())) == 1, "the good one is kept"


def test_old_backups_of_the_same_reason_go_and_take_with_them_what_only_they_wanted(store: Store, paths: Paths) -> None:
    upgrade = backed_up(paths, reason="upgrade")
    first = backed_up(paths, keep=2)
    store.write_now(lambda s: s.delete(s.get(Rollout, "ro-0")))
    for _ in range(3):
        backed_up(paths, keep=2)
    left = backups(paths.backups)
    assert [one.reason for one in left] == ["upgrade", "test", "test"]
    assert not (first.manifest.exists() or first.config.exists())
    assert (upgrade.bundles / first.releases[0].digest).exists(), "the one of before the upgrade wants it still"
    upgrade.store.unlink()
    backed_up(paths, keep=2)
    assert {place.name for place in upgrade.bundles.iterdir()} == {left[-1].releases[0].digest}


def test_a_directory_with_other_peoples_files_keeps_them(store: Store, paths: Paths) -> None:
    """`[state] backup = { to = "." }` must not cost anybody their package.json, nor the workspace its airboss.toml."""
    kept = [
        paths.root / name for name in ("package.json", "notes.toml", "airboss.toml", "my-test.db", "bundles/theirs/a")
    ]
    (paths.root / "bundles" / "theirs").mkdir(parents=True)
    for path in kept:
        path.touch()
    for _ in range(3):
        backed_up(paths, to=paths.root, keep=1)
    assert [path.name for path in kept if not path.exists()] == []
    assert len(backups(paths.root)) == 1


def test_a_link_in_a_bundle_is_not_followed_into_the_backup(store: Store, paths: Paths) -> None:
    outside = paths.root / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    (paths.releases / "live" / "everything").symlink_to(outside)
    made = backed_up(paths)
    assert made.trouble == () and not list(made.bundles.rglob("secret"))


def test_a_manifest_cannot_name_a_place_outside_the_backups(store: Store, paths: Paths) -> None:
    made = backed_up(paths)
    paths.releases.rename(paths.root / "elsewhere")
    made.manifest.write_text(made.manifest.read_text().replace(made.releases[0].digest, "../../elsewhere/live"))
    assert "is no sha256" in " ".join(put_bundles_back(next(iter(backups(paths.backups)))))


def test_a_bundle_that_is_gone_or_was_altered_comes_back_and_nothing_is_overwritten(store: Store, paths: Paths) -> None:
    made = backed_up(paths)
    for path in (paths.releases / "live").iterdir():
        path.unlink()
    (paths.releases / "live").rmdir()
    altered = paths.releases / "before" / "config.json"
    altered.unlink()
    altered.write_text("{}")
    said = put_bundles_back(made)
    assert len(said) == 2 and all("put back" in line for line in said)
    assert put_bundles_back(made) == [], "now they are there"
    aside = [path for path in paths.releases.iterdir() if ".altered-" in path.name]
    assert [(path / "config.json").read_text() for path in aside] == ["{}"]


def test_another_disk_gets_copies(store: Store, paths: Paths) -> None:
    elsewhere = Path("/dev/shm") / f"airboss-test-{os.getpid()}"
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == paths.root.stat().st_dev:
        pytest.skip("there is no other file system here")
    try:
        made = backed_up(paths, to=elsewhere)
        assert verify(made) == ()
    finally:
        import shutil

        shutil.rmtree(elsewhere, ignore_errors=True)


@pytest.mark.parametrize(
    ("newest_at", "every", "now", "due"),
    [
        (None, HOUR, 1059.0, False),  # not while everything starts
        (None, HOUR, 1060.0, True),
        (None, 0.0, 9e9, False),
        (1000.0, HOUR, 1000.0 + HOUR - 1, False),
        (1000.0, HOUR, 1000.0 + HOUR, True),
        (1000.0, HOUR, 900.0, True),  # the clock was set back: it may be older than it looks
    ],
)
def test_when_a_backup_is_due(newest_at: float | None, every: float, now: float, due: bool) -> None:
    assert is_due(newest_at, every, now, up_since=1000.0) is due


def test_backups_that_are_too_old_or_missing_or_not_whole_are_said() -> None:
    assert wrong(1000.0, HOUR, 1000.0 + 2 * HOUR, 0.0, "", "") == ""
    old = wrong(1000.0, HOUR, 1060.0 + 2 * HOUR, 0.0, "the disk is full", "")
    assert "121 minutes old" in old and "due every 60" in old and "the disk is full" in old
    assert "there is no backup" in wrong(None, HOUR, 3 * HOUR, 0.0, "", "")
    assert wrong(None, 0.0, 9e9, 0.0, "", "") == "", "none are wanted"
    assert wrong(1000.0, HOUR, 1001.0, 0.0, "", "a bundle is gone") == "a bundle is gone"


def test_the_engine_makes_one_when_it_is_due_and_says_when_it_cannot(
    store: Store, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.backups.FIRST_AFTER_S", 0.0)
    keeper = BackupKeeper(paths, StateConfig(backup=BackupConfig(every=HOUR)))
    asyncio.run(keeper.turn())
    (made,) = backups(paths.backups)
    assert (made.reason, keeper.fact().made_at, keeper.fact().trouble) == ("scheduled", made.made_at, "")
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    stuck = BackupKeeper(paths, StateConfig(backup=BackupConfig(every=HOUR, to=in_the_way / "below")))
    asyncio.run(stuck.turn())
    assert str(in_the_way) in stuck.fact().trouble


def test_a_restore_killed_on_its_way_opens_nothing_and_goes_on_when_run_again(store: Store, paths: Paths) -> None:
    made = backed_up(paths)
    store.write_now(lambda s: audit.append(s, actor="user:ann", action="note", ref="service:chat"))
    store.close()
    pid = os.fork()
    if not pid:
        replaced = os.replace

        def killed(source: Path, target: Path) -> None:
            if Path(target) == paths.store:
                os._exit(9)
            replaced(source, target)

        os.replace = killed  # type: ignore[assignment]
        restore(paths.store, made.store)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert (paths.state / UNFINISHED).exists() and not paths.store.exists()
    with pytest.raises(OperationFailed, match="did not finish"):
        Store.open(paths.store)
    assert not paths.store.exists(), "no empty store was made in its place"
    restore(paths.store, newest_good(paths.backups))
    again = Store.open(paths.store)
    assert again.read_now(audit.verify).rows == 1
    again.close()


def test_a_backup_made_by_hand_is_the_newest_at_once(store: Store, paths: Paths) -> None:
    keeper = BackupKeeper(paths, StateConfig())
    assert keeper.fact().made_at is None
    made = backed_up(paths, reason="manual")
    assert keeper.fact().made_at == made.made_at
