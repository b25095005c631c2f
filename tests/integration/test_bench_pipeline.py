"""`airboss bench pipeline` on real runs: its rows, its targets, and what it says where DVC is not."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from engine.bench.pipeline.bench import measure
from engine.pipelines import fingerprint
from tests.dvc_program import ABSENT, PROGRAM, may_be_skipped


def options(dvc: str) -> argparse.Namespace:
    return argparse.Namespace(dvc=dvc, rounds=1, quick=True, stages=6)


@pytest.mark.skipif(may_be_skipped(), reason=ABSENT)
def test_a_stage_that_need_not_run_costs_less_than_dvcs() -> None:
    assert PROGRAM
    report = measure(options(PROGRAM))
    rows = {row.name: row for row in report.rows}
    idle = rows["6 stages, nothing changed"]
    assert idle.ratio is not None and idle.ratio < 1.0
    assert all(row.ours is not None and row.ours > 0 for row in report.rows if row.unit == "s")


def test_without_dvc_the_rows_say_what_to_install() -> None:
    report = measure(options("/nowhere/dvc"))
    assert [row.met for row in report.rows[:4]] == [None] * 4
    assert all("pipx install dvc" in row.note for row in report.rows[:4])
    assert {"plan of 1000 stages", "hashing 128 MB in 16 files"} <= {row.name for row in report.rows[4:]}


def test_code_is_read_again_whenever_a_file_or_a_folder_that_it_is_looked_for_in_changed(tmp_path: Path) -> None:
    package = tmp_path / "stranger"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("from stranger import two\n")
    search = (str(tmp_path),)
    digests = [fingerprint.code_digest("stranger.one:run", search)]
    (package / "two.py").write_text("x = 1\n")  # it was looked for, and was not there
    digests.append(fingerprint.code_digest("stranger.one:run", search))
    (package / "two.py").write_text("x = 2\n")
    digests.append(fingerprint.code_digest("stranger.one:run", search))
    assert len(set(digests)) == 3
    assert fingerprint.code_marks("stranger.one:run", search) is None  # written this moment: it may change unseen
