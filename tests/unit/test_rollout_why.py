"""One sentence for every place a rollout may stand at: what it waits for, and the way on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.rollouts.why import Bar, Standing, why
from state.words import PauseReason, RolloutState

S = RolloutState
HERE = Standing("ro-3", S.STEP_BAKING, "", "charlm-1", "charlm-2", step_kind="weight", ready=1, stable_ready=1)
SHUT = Bar("bob", "launch day", 600)
VERDICT = "errors: canary 2/80, about 120 more canary requests needed."


@pytest.mark.parametrize("state", list(S))
def test_every_state_has_its_sentence_and_what_is_over_waits_for_nothing(state: S) -> None:
    said = why(replace(HERE, state=state))
    assert (said == "") == state.is_terminal
    assert state.is_terminal or (not said[0].islower() and said.endswith("."))


@pytest.mark.parametrize("reason", list(PauseReason))
def test_every_pause_says_its_reason_and_the_way_on(reason: PauseReason) -> None:
    paused = replace(HERE, state=S.PAUSED, pause_reason=reason, message="the gateway is away", verdict=VERDICT,
                     resume_state=S.STEP_BAKING, freeze=SHUT)  # fmt: skip
    said = why(paused)
    assert ("by itself" if reason is PauseReason.FREEZE else "`rollout resume ro-3`") in said
    if reason in (PauseReason.INCONCLUSIVE, PauseReason.NO_DATA, PauseReason.SLO):
        assert "2/80" in said
    if reason is PauseReason.DRIFT:
        assert "`rollout adopt ro-3`" in said


@pytest.mark.parametrize(
    ("standing", "part"),
    [
        (replace(HERE, hold=SHUT, state=S.PAUSED), "Held by bob for 10 min more (launch day)"),
        (replace(HERE, hold=SHUT, state=S.ROLLING_BACK), "All traffic returns to charlm-1"),
        (replace(HERE, state=S.AWAITING_APPROVAL, approvals_needed=2, approvals=1), "1 of 2 have said yes"),
        (replace(HERE, state=S.PREPARING, ready=0, replicas=2, prepare_left_s=240), "0 of 2 replicas of charlm-2"),
        (replace(HERE, state=S.STEP_APPLYING, ready=0), "No replica of charlm-2 answers"),
        (replace(HERE, state=S.STEP_APPLYING, trouble="25 % to charlm-2: refused"), "refused"),
        (replace(HERE, verdict=VERDICT), "about 120 more canary requests"),
        (replace(HERE, step_kind="pause", step_left_s=90), "2 min yet"),
        (replace(HERE, step_kind="approval", approvals_needed=1), "0 of 1 have said yes"),
        (replace(HERE, state=S.ROLLING_BACK, stable_ready=0, replicas=2), "0 of 2 replicas answer"),
        (replace(HERE, state=S.ROLLING_BACK, successor="charlm-3"), "then charlm-3 begins"),
        (replace(HERE, state=S.STUCK, message="tried 5 times"), "`rollout adopt ro-3`"),
    ],
)
def test_the_condition_that_blocks_is_named(standing: Standing, part: str) -> None:
    assert part in why(standing)
