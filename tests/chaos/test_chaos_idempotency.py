"""kill -9 of the engine in the middle of a keyed deploy: asked again under its key it has happened exactly once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from chaos_workspace import CANARY, ENV, SERVICE, Workspace
from patience import PATIENCE_S, until

from console.client import EngineClient
from engine.api.schemas import VerbRequest, VerbResult
from state.words import AirbossError

pytestmark = pytest.mark.deep

MakeWorkspace = Callable[..., Workspace]
CRASHING = Path(__file__).with_name("crashing_engine.py")


def deploy(ws: Workspace) -> VerbResult:
    wish = VerbRequest(
        verb="deploy", ref=f"service/{SERVICE}", args={"release": CANARY, "env": ENV}, yes=True, confirm_name=SERVICE,
        idempotency_key="job-7",
    )  # fmt: skip
    with EngineClient.for_workspace(ws.root, timeout_s=PATIENCE_S) as client:
        return client.verb(wish, timeout_s=PATIENCE_S)


@pytest.mark.parametrize(
    ("crash", "was_done"),
    [
        pytest.param("before commit&rollout planned", False, marks=pytest.mark.deep),
        ("after commit&rollout planned", True),
    ],
)
def test_a_keyed_deploy_killed_around_its_commit_is_done_once(
    workspace: MakeWorkspace, crash: str, was_done: bool
) -> None:
    ws = workspace()
    ws.start(script=CRASHING, CHAOS_POINTS=str(ws.root / "points"), CHAOS_CRASH_AT=crash)
    until(ws.is_serving, "users are answered")
    with suppress(AirbossError):
        deploy(ws)
    ws.engines[-1].wait(30)
    (claim,) = ws.rows("SELECT audit_id, answer FROM kept_answer")
    assert (claim["audit_id"] is not None, claim["answer"]) == (was_done, "{}")
    assert len(ws.rows("SELECT id FROM rollout WHERE to_release = ?", CANARY)) == int(was_done)
    ws.start()
    answer = deploy(ws)
    assert (answer.changed, answer.replayed) == (True, was_done)
    (row,) = ws.rows("SELECT id FROM rollout WHERE to_release = ?", CANARY)
    assert answer.ref == f"rollout/{row['id']}"
    ws.wait_for(row["id"], "step_baking", 0)
    assert deploy(ws).ref == answer.ref and ws.chain().is_whole
