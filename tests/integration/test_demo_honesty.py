"""What keeps the demo honest: without the fault it must not roll back, without evidence it must pause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Play = Callable[..., dict[str, Any]]


@pytest.mark.deep
@pytest.mark.timeout(280)
def test_the_same_demo_without_the_fault_is_not_rolled_back(play: Play) -> None:
    document = play(fault=False)
    assert document["acts"][3]["rollout"]["state"] == "completed"


@pytest.mark.deep
@pytest.mark.timeout(280)
def test_with_the_judges_data_cut_off_it_pauses_and_never_passes(play: Play) -> None:
    document = play(cut_evidence=True)
    rollout = document["acts"][2]["rollout"]
    assert rollout["state"] == "paused"
    assert {step["verdict"] for step in rollout["steps"]} <= {"NO_DATA", "INCONCLUSIVE", None}
