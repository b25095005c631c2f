"""What one does in an incident from the console: what changed before an alert, logs of ended replicas, one request."""

from __future__ import annotations

from typing import Any

from console.tui.before_alert import before_lines
from console.tui.log_lines import replica_log_lines
from console.tui.scene import ReplicaLog, ReplicaLogs
from console.tui.text import plain
from engine.api.schemas import EventView


def event(number: int, at: float, action: str, ref: str = "service:chat", actor: str = "user:ana") -> EventView:
    return EventView(id=number, at=at, actor=actor, action=action, ref=ref, reason="", detail={})


def log(name: str, text: str, **more: Any) -> ReplicaLog:
    given: dict[str, Any] = {"state": "ready", "started_at": 1.0, "ended_at": None, "end_cause": ""} | more
    return ReplicaLog(id=name, release_id="charlm-2", text=text, **given)


def test_before_an_alert_stands_what_changed_in_its_half_hour_and_nothing_else(world: Any) -> None:
    snapshot = world.snapshot()
    alert = snapshot.alerts[0]
    at = alert.starts_at
    rows = [event(1, at - 1801, "too.old"), event(2, at - 600, "deploy"), event(3, at - 60, "config.apply", "engine:engine"),
            event(4, at - 30, "alert.ack"), event(5, at + 1, "too.late")]  # fmt: skip
    shown = [plain(row) for row in before_lines(alert, snapshot, rows, 100)]
    text = "\n".join(shown)
    assert "10 m 00 s" in text and "deploy" in text and "config.apply" in text
    assert not any(word in text for word in ("too.old", "too.late", "alert.ack"))
    assert text.index("config.apply") < text.index("deploy"), "the newest stands first"


def test_where_the_audit_log_is_known_in_part_it_says_so(world: Any) -> None:
    snapshot = world.snapshot()
    rows = [event(500, snapshot.alerts[0].starts_at - 60, "deploy")]
    assert "older acts are not shown" in plain(before_lines(snapshot.alerts[0], snapshot, rows, 100)[0])


def test_logs_stand_below_each_other_with_how_an_ended_one_ended_and_may_be_narrowed() -> None:
    found = ReplicaLogs(
        (log("m-new", "started\nready"), log("m-old", "boom\n[/x] no markup", ended_at=9.0, end_cause="killed"))
    )
    shown = [plain(row) for row in replica_log_lines(found)]
    assert shown[0].startswith("── m-old") and "ended 1970-01-01 00:00:09 UTC: killed" in shown[0]
    assert " [/x] no markup" in shown and shown.index(" ready") == len(shown) - 1
    narrowed = [plain(row) for row in replica_log_lines(found, "BOOM")]
    assert len(narrowed) == 2 and narrowed[1] == " boom"


async def test_l_shows_the_logs_of_replicas_and_slash_narrows_them(desk: Any, engine: Any) -> None:
    engine.replica_logs = [
        {"id": "m-new", "env": "production", "release_id": "charlm-2", "state": "ready", "started_at": 1.0, "ended_at": None,
         "end_cause": "", "text": "started\nout of memory near"},
        {"id": "m-old", "env": "production", "release_id": "charlm-1", "state": "exited", "started_at": 1.0, "ended_at": 9.0,
         "end_cause": "signal 9", "text": "last words"},
    ]  # fmt: skip
    async with desk() as d:
        await d.press("l")
        wanted = ("m-old", "signal 9", "last words", "out of memory near", "following")
        await d.until(lambda: all(text in d.text for text in wanted), timeout_s=20)
        await d.press("slash", "m", "e", "m", "enter")
        await d.until(lambda: "last words" not in d.text, timeout_s=20)
        await d.shows("out of memory near", "lines with 'mem'")
        await d.press("escape", "l")
        await d.shows("last words", "standing still")


async def test_r_sends_one_request_to_the_canary_and_shows_its_answer(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("r")
        await d.shows("one request to  chat", "canary: charlm-2", "stable: charlm-1")
        await d.armed()
        await d.press("H", "i", "enter")
        await d.until(lambda: "charlm-2 (canary) on m-7a2b in 41 ms" in d.text, timeout_s=20)
        await d.shows("there, said the model")
        assert [(a["track"], a["prompt"], a["env"]) for a in engine.asked] == [("canary", "Hi", "production")]
        assert engine.done == [], "it is no verb: nothing changes"


async def test_enter_on_an_alert_shows_first_what_changed_before_it(desk: Any) -> None:
    async with desk() as d:
        await d.press("6", "enter")
        await d.shows("what changed in the half hour before", "burn_rate_fast")


async def test_slash_shows_only_lines_of_a_stages_log_with_a_text(desk: Any) -> None:
    async with desk(size=(120, 40)) as d:
        await d.press("3", "enter")
        await d.until(lambda: "step 10 loss 4.1" in d.text, timeout_s=20)
        await d.press("slash", "3", "full_stop", "2", "enter")
        await d.until(lambda: "step 10 loss 4.1" not in d.text, timeout_s=20)
        await d.shows("step 20 loss 3.2", "lines with '3.2'")
        await d.press("escape")
        await d.shows("step 10 loss 4.1")
