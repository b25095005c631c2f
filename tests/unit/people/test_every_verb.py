"""Every verb of the table at the one door: who has no role is refused, whatever it is; so is who is nobody in particular."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlmodel import Session

from engine.operations.door import HANDLERS
from engine.people.hooks import outbox
from engine.verbs import VERBS
from state.config import PipelineConfig
from state.hook_config import Hook
from state.models import Alert, BrokenGlass, Silence
from state.pipeline_config import TriggerConfig
from state.words import Denied

NOUNS = {
    "deploy": "service/chat", "rollback": "service/chat", "drill": "service/chat", "state": "service/chat",
    "release": "release/charlm-2", "hold": "service/chat", "unhold": "service/chat", "freeze": "env/production", "glass": "glass/1",
    "hook.test": "hook/chatops", "hook.redeliver": "delivery/1", "trigger": "trigger/charlm.nightly", "pipeline": "pipeline/charlm", "run": "run/run-1",
    "alert.unsilence": "silence/1", "alert": "alert/1", "note": "env/production", "config": "engine/engine", "service": "service/chat",
    "engine": "engine/engine", "dataset": "dataset/corrections", "release.import": "engine/engine", "registry": "service/chat",
}  # fmt: skip
ARGS: dict[str, Any] = {"env": "production", "release": "charlm-2", "text": "x", "weight": 40, "name": "kill", "stage": "archived",
                        "outcome": "met", "replicas": 2, "measured": {}}  # fmt: skip


def _ref(verb: str, rollout: str) -> str:
    return NOUNS.get(verb) or NOUNS.get(verb.partition(".")[0]) or f"rollout/{rollout}"


def _things(session: Session) -> None:
    """One of each thing that a verb is about, all of them in production."""
    session.add(Alert(fingerprint="f", name="Slow", severity="page", service="chat", env="production", summary="slow",
                      state="active", starts_at=1.0))  # fmt: skip
    session.add(Silence(matchers={"env": "production", "service": "chat"}, created_by="user:ana", reason="x",
                        starts_at=1.0, ends_at=time.time() + 600))  # fmt: skip
    session.add(BrokenGlass(rollout_id="ro-1", service="chat", env="production", verb="deploy", by="user:olga", at=1.0,
                            reason="x", passed="x"))  # fmt: skip
    outbox.add(session, "chatops", "rollout.planned", "rollout:ro-1", {}, time.time())


async def _refused(office: Any, who: str, verb: str, rollout: str, **more: Any) -> str:
    with pytest.raises(Denied) as denied:
        await office.ask(who, verb, _ref(verb, rollout), args=ARGS, **more)
    return denied.value.code


async def test_no_verb_is_done_for_who_may_not(office: Any, toml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(HANDLERS) == set(VERBS)
    rollout = await office.deploy()
    office.store.write_now(_things)
    monkeypatch.setitem(office.config.hook, "chatops", Hook(url="http://127.0.0.1:9/"))
    monkeypatch.setitem(
        office.config.pipeline,
        "charlm",
        PipelineConfig(kind="charlm", trigger={"nightly": TriggerConfig(cron="0 3 * * *")}),
    )
    chat = office.config.service["chat"].model_copy(update={"pipeline": "charlm"})
    monkeypatch.setitem(office.config.service, "chat", chat)
    (office.desk.workspace / "airboss.toml").write_text(toml.replace("approvals = 2", "approvals = 3"))
    before = office.audit()
    for verb in VERBS:
        assert (verb, await _refused(office, "vera", verb, rollout)) == (verb, "role")
        if VERBS[verb].breakable:
            assert (verb, await _refused(office, "vera", verb, rollout, break_glass=True)) == (verb, "role")
        if VERBS[verb].personal:
            for nobody in ("root", "robot"):
                assert (verb, await _refused(office, nobody, verb, rollout)) == (verb, "impersonal")
    assert office.audit() == before
