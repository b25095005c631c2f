"""Which facts fire which alerts, and which do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.observe.conditions import AdapterFact, CrashLoopFact, Facts, Firing, ProbeFact, RolloutFact
from engine.observe.rules import firing
from state.words import PauseReason, RolloutState, Severity, VerdictKind

CANARY = RolloutFact(
    "ro-1", "chat", "production", "charlm-2", RolloutState.STEP_BAKING, 900.0,
    canary_weight=25, stable_requests=750, canary_requests=250,
)  # fmt: skip


def fired(**facts: object) -> dict[str, Firing]:
    found = firing(Facts(now=1_000.0, **facts))  # type: ignore[arg-type]
    return {one.name: one for one in found}


def rollout(**changes: object) -> dict[str, Firing]:
    return fired(rollouts=(replace(CANARY, **changes),))  # type: ignore[arg-type]


def test_a_healthy_world_fires_nothing() -> None:
    assert (
        fired(
            rollouts=(CANARY,),
            probes=(ProbeFact("chat", "production", 0, "ok", ""),),
            adapters=(AdapterFact("registry", ""),),
        )
        == {}
    )


def test_a_measured_split_that_is_off_fires_only_with_enough_counts_to_know() -> None:
    assert "WeightMismatch" in rollout(stable_requests=600, canary_requests=400)
    assert "WeightMismatch" not in rollout(stable_requests=60, canary_requests=40)
    assert "WeightMismatch" not in rollout(stable_requests=730, canary_requests=270)
    assert "WeightMismatch" not in rollout(stable_requests=600, canary_requests=400, state=RolloutState.STEP_APPLYING)
    assert "WeightMismatch" not in rollout(stable_requests=0, canary_requests=900, canary_weight=100)


def test_a_canary_that_gets_nothing_fires_only_when_it_should_have_got_something() -> None:
    starved = rollout(stable_requests=400, canary_requests=0)
    assert "CanaryNoTraffic" in starved
    assert "WeightMismatch" not in starved
    assert rollout(stable_requests=20, canary_requests=0) == {}
    assert rollout(stable_requests=0, canary_requests=0) == {}


def test_a_canary_whose_failures_retries_hide_is_seen() -> None:
    hidden = rollout(canary_requests=5, canary_attempt_failures=240)["CanaryFailing"]
    assert hidden.severity is Severity.TICKET
    assert "240 of 245" in hidden.summary
    assert "CanaryFailing" not in rollout(canary_attempt_failures=9)


def test_a_failed_canary_is_a_ticket_until_it_is_old_and_a_hands_abort_is_information() -> None:
    gone = {
        "state": RolloutState.ROLLED_BACK,
        "verdict": VerdictKind.FAIL.value,
        "verdict_sentence": "errors 12 % vs 0 %",
    }
    assert rollout(**gone)["CanaryFailing"].severity is Severity.TICKET
    assert "errors 12 %" in rollout(**gone)["CanaryFailing"].summary
    assert rollout(**gone, state_since=0.0) == {}
    assert rollout(state=RolloutState.ROLLED_BACK, message="aborted")["CanaryFailing"].severity is Severity.INFO
    assert "CanaryFailing" in rollout(verdict=VerdictKind.FAIL.value)
    assert rollout(state=RolloutState.COMPLETED, verdict=VerdictKind.FAIL.value) == {}


def test_a_pause_speaks_up_unless_a_hand_made_it() -> None:
    paused = {"state": RolloutState.PAUSED}
    assert "RolloutNoData" in rollout(**paused, pause_reason=PauseReason.NO_DATA.value)
    assert "RolloutPaused" in rollout(**paused, pause_reason=PauseReason.DRIFT.value)
    assert rollout(**paused, pause_reason=PauseReason.MANUAL.value) == {}
    assert rollout(state=RolloutState.STUCK)["RolloutStuck"].severity is Severity.PAGE


def test_a_dead_gateway_is_one_page_and_a_dead_service_another() -> None:
    down = tuple(ProbeFact("chat", env, 3, "unreachable", "ConnectError") for env in ("production", "staging"))
    assert list(fired(probes=down)) == ["GatewayDown"]
    bad = fired(probes=(ProbeFact("chat", "production", 3, "bad", "it answered 503"),))
    assert list(bad) == ["ProbeFailing"]
    assert bad["ProbeFailing"].severity is Severity.PAGE
    assert fired(probes=(ProbeFact("chat", "production", 2, "unreachable", "ConnectError"),)) == {}


def test_probes_that_time_out_while_no_worker_answers_mean_the_gateway() -> None:
    late = (ProbeFact("chat", "production", 4, "deadline", "no token within 10 s"),)
    assert list(fired(probes=late, gateway_trouble="unreachable: no gateway worker")) == ["GatewayDown"]


@pytest.mark.parametrize(
    ("facts", "name", "severity"),
    [
        (
            {"crash_loops": (CrashLoopFact("chat", "production", "charlm-2", "4 exits in 120 s"),)},
            "CrashLoop",
            Severity.PAGE,
        ),
        (
            {"crash_loops": (CrashLoopFact("chat", "production", "charlm-2", "x", "canary"),)},
            "CrashLoop",
            Severity.TICKET,
        ),
        ({"adapters": (AdapterFact("registry", "timed out"),)}, "AdapterDown", Severity.TICKET),
        ({"backup_trouble": "the newest backup is 130 minutes old"}, "BackupTrouble", Severity.TICKET),
        ({"audit_trouble": "row 7 does not follow"}, "AuditChainBroken", Severity.PAGE),
        ({"someone_is_paged": False}, "NoOneIsPaged", Severity.INFO),
    ],
)
def test_each_trouble_has_its_alert(facts: dict[str, object], name: str, severity: Severity) -> None:
    found = fired(**facts)
    assert list(found) == [name]
    assert found[name].severity is severity


def test_a_fingerprint_is_the_condition_not_its_numbers() -> None:
    one = Firing("WeightMismatch", Severity.TICKET, "gets 31 %", "chat", "production", {"rollout": "ro-1"})
    assert one.fingerprint == replace(one, summary="gets 32 %", severity=Severity.PAGE).fingerprint
    assert one.fingerprint != replace(one, env="staging").fingerprint
