"""Live answers checked off the request's path, and requests priced, through a real gateway."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from patience import eventually


def measures(*checks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"quality": {"checks": list(checks), "sample": 100.0, **more}}


def counted(house: Any) -> dict[str, Any]:
    """The newest snapshot's row of the one track."""
    line = house.front.proxy.recorder.counts.close_interval(time.time())
    return next(iter(json.loads(line)["rows"]))


async def test_answers_are_checked_after_the_user_has_them_and_counted_by_track(house: Any) -> None:
    house.backend.text = "It was in 1969."
    check = {"name": "year", "kind": "matches", "pattern": r"\d{4}"}
    await house.start(measures=measures(check, {"name": "short", "kind": "length", "max_chars": 100}))
    assert (await house.ask())[0] == 200
    house.backend.text = "Long ago."
    assert (await house.ask())[0] == 200
    await house.stream()
    name = "airboss_quality_checks_total"
    await eventually(lambda: house.metric(name, check="short", verdict="pass", track="stable") == 3)
    assert (house.metric(name, check="year", verdict="pass"), house.metric(name, check="year", verdict="fail")) == (
        1,
        2,
    )
    await eventually(lambda: not house.front.proxy.sampler.is_busy)
    row = counted(house)
    assert (row["requests"], row["checked"], row["failed"]) == (3, 3, 2)


async def test_a_judge_that_gives_no_word_makes_no_evidence_and_holds_up_nobody(house: Any, tmp_path: Path) -> None:
    slow = tmp_path / "judge.py"
    slow.write_text("import time; time.sleep(60)")
    check = {"name": "judge", "kind": "command", "command": [sys.executable, str(slow)], "timeout_s": 0.2}
    await house.start(measures=measures(check, concurrency=1, queue=1))
    answers = [await house.ask() for _ in range(4)]
    assert [status for status, _, _ in answers] == [200] * 4
    await eventually(lambda: not house.front.proxy.sampler.is_busy)
    assert house.metric("airboss_quality_checks_total", check="judge", verdict="error") >= 1
    assert house.metric("airboss_quality_dropped_total") >= 1
    assert counted(house)["checked"] == 0


async def test_a_judge_by_command_says_good_or_bad(house: Any, tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text(
        "import json, sys; asked = json.load(sys.stdin); print(json.dumps({'ok': 'no' not in asked['texts'][0]}))"
    )
    house.backend.text = "yes"
    check = {"name": "judge", "kind": "command", "command": [sys.executable, str(judge)], "timeout_s": 20.0}
    await house.start(measures=measures(check))
    await house.ask()
    house.backend.text = "no"
    await house.ask()
    name = "airboss_quality_checks_total"
    await eventually(lambda: house.metric(name, verdict="pass") + house.metric(name, verdict="fail") == 2)
    await eventually(lambda: not house.front.proxy.sampler.is_busy)
    row = counted(house)
    assert (row["checked"], row["failed"]) == (2, 1)


async def test_a_request_is_priced_by_the_replicas_busy_time(house: Any) -> None:
    dear = {"cost": {"usd_per_hour": 3600.0, "max_usd_per_request": 1e-9, "max_usd_per_1k_tokens": 0.0}}
    await house.start(measures=dear)
    await asyncio.gather(*(house.ask() for _ in range(4)))
    row = counted(house)
    assert (row["priced"], row["dear"]) == (4, 4)
    # Requests that were worked on together share the time: in sum it is no more than what passed.
    assert 0 < row["busy_s"] <= row["latency"]["sum"]
    assert house.metric("airboss_busy_seconds_total") > 0
    cheap = {"cost": {**dear["cost"], "max_usd_per_request": 1e9}}
    await house.put(measures=cheap)
    await house.ask()
    line = house.front.proxy.recorder.counts.close_interval(time.time())
    rows = [r for r in json.loads(line)["rows"] if r["requests"]]
    assert [(r["priced"], r["dear"]) for r in rows] == [(1, 0)]
