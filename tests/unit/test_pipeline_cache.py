"""The cache of stage outputs, on a real file system."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.pipelines.cache import Manifest, OutputsChanged, Place, StageCache
from engine.pipelines.fingerprint import code_digest, module_file, source_digest
from engine.pipelines.stage import PROGRESS_NAME, RESULT_NAME
from state.words import UsageError


def commit(cache: StageCache, spawn_id: str = "s1", text: str = "one", key: str = "k" * 64) -> Place:
    aside = cache.aside(spawn_id)
    (aside / "out" / "deep").mkdir(parents=True)
    (aside / "out" / "deep" / "file.txt").write_text(text)
    (aside / "out" / RESULT_NAME).write_text(f'{{"metrics": {{}}, "by": "{spawn_id}"}}')
    (aside / "out" / PROGRESS_NAME).write_text("{}")
    place = cache.place(key)
    with place.making():
        place.commit(aside, key=key, stage="train", spawn_id=spawn_id, made_of={})
    return place


def test_committed_outputs_verify_and_nothing_stays_aside(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    place = commit(cache)
    manifest = place.verified("k" * 64)
    assert manifest is not None
    assert manifest == Manifest.read(place.entry)
    assert [file.path for file in manifest.files] == ["deep/file.txt", RESULT_NAME]
    assert list((tmp_path / ".aside").iterdir()) == []


def test_digest_is_of_the_outputs_not_of_the_execution(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    first, second, other = (commit(cache, s, t, s * 32) for s, t in (("s1", "one"), ("s2", "one"), ("s3", "two")))
    digests = [Manifest.read(place.entry).digest for place in (first, second, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "out/deep/file.txt").write_text("two"),
        lambda entry: (entry / "out/deep/file.txt").unlink(),
        lambda entry: (entry / "out/new.txt").write_text("x"),
        lambda entry: (entry / "out" / RESULT_NAME).write_text("{}"),
        lambda entry: (entry / "manifest.json").write_text("{"),
        lambda entry: (entry / "manifest.json").write_text("[]"),
        lambda entry: (entry / "manifest.json").unlink(),
    ],
)
def test_any_damage_is_noticed(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    place = commit(StageCache(tmp_path))
    damage(place.entry)
    with pytest.raises(OutputsChanged):
        place.verified("k" * 64)
    assert commit(StageCache(tmp_path), "s2").verified("k" * 64) is not None


def test_links_are_refused(tmp_path: Path) -> None:
    aside = StageCache(tmp_path).aside("s1")
    (aside / "out").mkdir(parents=True)
    (aside / "out" / "link").symlink_to("/etc/hostname")
    with pytest.raises(OutputsChanged, match="symbolic link"):
        StageCache(tmp_path).place("k").commit(aside, key="k", stage="train", spawn_id="s1", made_of={})


def test_lock_dies_with_its_process_even_if_a_forked_worker_lives_on(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from engine.pipelines.cache import Place\n"
        "with Place(Path(sys.argv[1])).making():\n"
        "    worker = os.fork()\n"
        "    if worker == 0:\n"
        "        time.sleep(60)\n"
        "    print(worker, flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "entry")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    worker = int(child.stdout.readline())
    try:
        child.kill()
        child.wait()
        code = "from pathlib import Path; import sys; from engine.pipelines.cache import Place\nwith Place(Path(sys.argv[1])).making(): pass"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "entry")], check=True, timeout=20)
    finally:
        os.kill(worker, signal.SIGKILL)
        child.stdout.close()


def test_sweep_spares_the_living(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    for name in ("alive", "dead", "dead.old"):
        cache.aside(name).mkdir(parents=True)
    cache.sweep(frozenset({"alive"}))
    assert [path.name for path in (tmp_path / ".aside").iterdir()] == ["alive"]


def write_package(root: Path) -> None:
    (root / "mine").mkdir()
    (root / "mine" / "__init__.py").write_text("")
    (root / "mine" / "stage.py").write_text(
        "def run(ctx):\n    from mine.lib import deep\n    from . import near\n    import json\n"
    )
    (root / "mine" / "lib").mkdir()
    (root / "mine" / "lib" / "__init__.py").write_text(
        "raise RuntimeError('nobody may import this to fingerprint it')\n"
    )
    (root / "mine" / "lib" / "deep.py").write_text("X = 1\n")
    (root / "mine" / "near.py").write_text("Y = 1\n")
    (root / "mine" / "unused.py").write_text("Z = 1\n")


@pytest.mark.parametrize(
    ("name", "differs"),
    [("stage.py", True), ("lib/deep.py", True), ("lib/__init__.py", True), ("near.py", True), ("unused.py", False)],
)
def test_code_digest_follows_imports_without_importing(tmp_path: Path, name: str, differs: bool) -> None:
    write_package(tmp_path)
    before = code_digest("mine.stage:run", (str(tmp_path),))
    with (tmp_path / "mine" / name).open("a") as file:
        file.write("NEW = 1\n")
    assert (code_digest("mine.stage:run", (str(tmp_path),)) != before) is differs
    assert "mine" not in sys.modules


def test_code_digest_of_a_stage_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no module nowhere\.stage"):
        code_digest("nowhere.stage:run", (str(tmp_path),))
    assert module_file("engine.pipelines.stage", sys.path) is not None


def test_source_digest_is_of_content(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    before = source_digest("folder", tmp_path)
    (tmp_path / "folder" / ".airboss").mkdir()
    (tmp_path / "folder" / ".airboss" / "state.db").write_text("changes always")
    assert source_digest("folder", tmp_path) == before
    (tmp_path / "folder" / "a.txt").write_text("b")
    assert source_digest("folder", tmp_path) != before
    with pytest.raises(UsageError, match="does not exist"):
        source_digest("nothing", tmp_path)


def test_equal_files_of_two_entries_lie_on_the_disk_once_and_damage_to_them_spreads_to_no_new_one(
    tmp_path: Path,
) -> None:
    cache, text = StageCache(tmp_path), "one " * 40_000
    first, second = (commit(cache, s, text, s * 32) for s in ("s1", "s2"))
    files = [place.out / "deep" / "file.txt" for place in (first, second)]
    assert files[0].stat().st_ino == files[1].stat().st_ino
    assert (first.out / RESULT_NAME).stat().st_nlink == 1
    assert second.verified("s2" * 32) is not None
    files[0].write_text("two " * 40_000)  # by hand, in place
    for place, key in ((first, "s1"), (second, "s2")):
        with pytest.raises(OutputsChanged):
            place.verified(key * 32)
    third = commit(cache, "s3", text, "s3" * 32)
    assert third.verified("s3" * 32) is not None
    for place in (first, second):
        shutil.rmtree(place.entry)
    cache.sweep(frozenset())
    assert [path.read_text() for path in (tmp_path / ".same").iterdir()] == [text]
    shutil.rmtree(third.entry)
    cache.sweep(frozenset())
    assert list((tmp_path / ".same").iterdir()) == []
