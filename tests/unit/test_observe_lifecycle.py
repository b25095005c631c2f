"""An alert's life: raised when it has held, one occurrence while it flaps, told once, and again while a page waits."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from engine.observe.conditions import Firing
from engine.observe.lifecycle import AlertRecord, Held, SilenceRecord, advance, notices
from state.words import AlertState, Severity

CLEAR_S = 30.0
SLOW = Firing("WeightMismatch", Severity.TICKET, "off by 5", for_s=60.0)
QUICK = Firing("GatewayDown", Severity.PAGE, "dead")

looks = st.lists(st.tuples(st.floats(0.1, 40.0), st.booleans(), st.booleans()), max_size=60)


@given(looks)
def test_no_condition_is_raised_early_resolved_early_or_twice_at_once(steps: list[tuple[float, bool, bool]]) -> None:
    held: dict[str, Held] = {}
    now, active = 1_000.0, set[str]()
    last_seen: dict[str, float] = {}
    held_since: dict[str, float] = {}
    for wait, quick, slow in steps:
        now += wait
        seen = [one for one, is_on in ((QUICK, quick), (SLOW, slow)) if is_on]
        for one in (QUICK, SLOW):
            if one in seen:
                last_seen[one.fingerprint] = now
                held_since.setdefault(one.fingerprint, now)
            elif one.fingerprint not in active:
                held_since.pop(one.fingerprint, None)
        changes = advance(held, seen, now, CLEAR_S)
        held = dict(changes.held)
        for raised in changes.raised:
            name = raised.firing.fingerprint
            assert name not in active
            assert now - held_since[name] >= raised.firing.for_s
            active.add(name)
        for resolved in changes.resolved:
            name = resolved.firing.fingerprint
            assert name in active
            assert now - last_seen[name] >= CLEAR_S
            active.discard(name)
            held_since.pop(name, None)
        assert {name for name, one in held.items() if one.is_raised} == active


def test_a_flapping_condition_stays_one_occurrence() -> None:
    held: dict[str, Held] = {}
    raised = resolved = 0
    for second in range(0, 300, 5):
        changes = advance(held, [QUICK] if second % 20 == 0 else [], float(second), CLEAR_S)
        held, raised, resolved = dict(changes.held), raised + len(changes.raised), resolved + len(changes.resolved)
    assert (raised, resolved) == (1, 0)


def test_a_break_starts_the_waiting_time_again() -> None:
    held = dict(advance({}, [SLOW], 0.0, CLEAR_S).held)
    held = dict(advance(held, [], 40.0, CLEAR_S).held)
    changes = advance(held, [SLOW], 70.0, CLEAR_S)
    assert not changes.raised
    assert advance(changes.held, [SLOW], 130.0, CLEAR_S).raised


def test_a_clock_set_back_does_not_keep_an_alert_for_ever() -> None:
    held = advance({}, [QUICK], 10_000.0, CLEAR_S).held
    assert advance(held, [], 6_400.0, CLEAR_S).resolved


PAGE = AlertRecord(1, "f1", "GatewayDown", Severity.PAGE, "", "", "dead", {}, AlertState.ACTIVE, 100.0)


def told(alert: AlertRecord, now: float, *silences: SilenceRecord) -> list[tuple[str, bool]]:
    return [(n.status, n.is_reminder) for n in notices([alert], silences, now)]


def test_an_alert_is_told_until_somebody_took_it_and_then_no_more() -> None:
    assert told(PAGE, 101.0) == [("firing", False)]
    assert told(replace(PAGE, notify_error="webhook: 500"), 200.0) == [("firing", False)]
    assert told(replace(PAGE, notified_at=101.0), 200.0) == []


def test_a_page_nobody_took_is_told_again_every_ten_minutes() -> None:
    taken = replace(PAGE, notified_at=101.0)
    assert told(taken, 701.0) == [("firing", True)]
    assert told(replace(taken, acked_by="user:ann"), 701.0) == []
    assert told(replace(taken, severity=Severity.TICKET), 701.0) == []


def test_an_end_is_told_once_and_only_if_the_start_was() -> None:
    ended = replace(PAGE, state=AlertState.RESOLVED, ends_at=300.0, notified_at=101.0)
    assert told(ended, 301.0) == [("resolved", False)]
    assert told(replace(ended, notified_at=300.0), 301.0) == []
    assert told(replace(ended, notified_at=None), 301.0) == []
    assert told(ended, 9_000.0) == []


def test_a_silence_holds_its_tongue_for_what_it_matches_until_it_ends() -> None:
    alert = replace(PAGE, service="chat", labels={"rollout": "ro-1"})

    def quiet(**matchers: str) -> SilenceRecord:
        return SilenceRecord(1, matchers, "user:ann", "known", 50.0, 500.0)

    assert told(alert, 101.0, quiet(service="chat")) == []
    assert told(alert, 101.0, quiet(name="GatewayDown", rollout="ro-1")) == []
    assert told(alert, 101.0, quiet(service="other")) == [("firing", False)]
    assert told(alert, 101.0, quiet(service="chat", nothing="here")) == [("firing", False)]
    assert told(alert, 501.0, quiet(service="chat")) == [("firing", False)]


def test_information_is_shown_and_not_sent() -> None:
    assert told(replace(PAGE, severity=Severity.INFO), 101.0) == []
