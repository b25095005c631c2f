"""A rollout over time: from counts and steps to points, and from points to lines that say what they draw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session

from console.tui.course import course_lines, squeezed
from console.tui.text import line_width, plain
from engine.api.course_schemas import CourseView
from engine.api.views.course import POINTS, Counted, Courses, drawn
from state.models import Evidence, Rollout, RolloutStep
from state.store import Store

FAST, SLOW = {"0.1": 9, "0.5": 10, "+Inf": 10}, {"0.1": 0, "0.5": 10, "+Inf": 10}


def counted(track: str, at: float, *, errors: int = 0, buckets: dict[str, int] = FAST, release: str = "") -> Counted:
    return Counted(track, release or f"charlm-{track}", at, 10, errors, buckets)


def course() -> CourseView:
    """Two minutes in which the canary is slower and worse, and nothing is asked of it in the first."""
    counts = [counted("stable", float(t)) for t in range(0, 120, 2)]
    counts += [counted("canary", float(t), errors=1, buckets=SLOW) for t in range(60, 120, 2)]
    return drawn(counts, [(0.0, 0), (58.0, 25), (90.0, 50)], 0.0, 120.0)


def test_points_hold_the_weight_the_share_of_bad_requests_and_the_quantiles_of_their_time() -> None:
    found = course()
    assert (len(found.weight), found.step_s) == (POINTS, 2.0)
    assert (found.weight[0], found.weight[30], found.weight[-1]) == (0, 25, 50)
    stable, canary = found.tracks
    assert (stable.track, canary.track) == ("stable", "canary")
    assert canary.error_ratio[0] is None and canary.p95_ms[0] is None, "nothing was asked: no zero"
    assert canary.error_ratio[-1] == 0.1 and stable.error_ratio[-1] == 0.0
    assert (canary.p95_ms[-1] or 0) > (stable.p50_ms[-1] or 0) > 0


def test_the_lines_say_what_they_draw_and_fit_into_80_columns() -> None:
    shown = [plain(row) for row in course_lines(course(), 76)]
    assert max(line_width(row) for row in course_lines(course(), 76)) <= 76
    assert "last 50 %" in shown[0]
    assert shown[1].startswith("bad share")
    bad = next(row for row in shown[1:] if "canary" in row)
    assert "last 10.0 %, highest 10.0 %" in bad
    assert "00:00:00 to 00:02:00 UTC, a point each 6 s" in shown[-1]


def test_both_tracks_are_drawn_on_one_scale() -> None:
    rows = [plain(row) for row in course_lines(course(), 140)]
    stable, canary = (row for row in rows if "ms, highest" in row and rows.index(row) in (3, 4))
    assert "█" in canary and "█" not in stable


def test_a_peak_is_not_lost_when_there_is_less_room_and_a_gap_stays_one() -> None:
    assert squeezed([1.0, 9.0, math.nan, math.nan, 2.0], 3)[:2] == [9.0, pytest.approx(math.nan, nan_ok=True)]


def test_the_course_comes_from_the_evidence_and_is_not_asked_for_again_before_there_is_a_new_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "state.db")
    facts: dict[str, Any] = {"service": "chat", "env": "dev", "target": "local"}

    def fill(session: Session) -> None:
        session.add(Rollout(id="ro-1", strategy="canary", to_release="charlm-2", from_release="charlm-1", state="step_baking",
                            policy={}, created_by="user:ana", created_at=1000.0, state_since=1000.0, **facts))  # fmt: skip
        session.flush()
        session.add(RolloutStep(rollout_id="ro-1", idx=0, kind="weight", weight=25, started_at=1000.0))
        for n in range(20):
            session.add(Evidence(boot_id="g", seq=n, table_revision=1, t0=1000.0 + n, t1=1001.0 + n, track="canary",
                                 release_id="charlm-2", requests=5, errors=1, latency={"buckets": FAST}, **facts))  # fmt: skip

    store.write_now(fill)
    courses = Courses()

    def ask(now: float) -> CourseView | None:
        return store.read_now(lambda s: courses.of(s, s.get_one(Rollout, "ro-1"), now))

    found = ask(1020.0)
    assert found is not None and found.weight == (25,) * 10 and sum(found.tracks[0].requests) == 100
    assert ask(1020.5) is found and ask(1023.0) is not found
