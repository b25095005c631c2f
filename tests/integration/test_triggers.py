"""Triggers: when they fire, by decisions that take values, and for real over a store, a runner and files that change."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import col, select

from adapters.local.spawn import Spawner
from engine.pipelines.runner import PipelineRunner
from engine.pipelines.triggers.decide import Fire, Memory, Seen, decide, last_slot, missed_slots, next_slot
from engine.pipelines.triggers.watch import Triggers, approve, recall, set_paused
from state.config import parse_config
from state.models import Alert, Run
from state.paths import Paths
from state.pipeline_config import TriggerConfig
from state.store import Store
from state.words import ConfigError

NIGHTLY = TriggerConfig(cron="0 3 * * *")
DAY = 86_400.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_cron_fires_once_at_its_time_and_says_when_it_was_due() -> None:
    memory = Memory(slot=at("2026-06-01 02:00"))
    assert decide(NIGHTLY, memory, Seen(at("2026-06-01 02:59:59"))) is None
    fire = decide(NIGHTLY, memory, Seen(at("2026-06-01 03:00:00")))
    assert isinstance(fire, Fire) and fire.why == "cron 0 3 * * *: due 2026-06-01 03:00 UTC"
    assert decide(NIGHTLY, fire.memory, Seen(at("2026-06-01 03:00:05"))) is None
    assert isinstance(decide(NIGHTLY, fire.memory, Seen(at("2026-06-02 03:00:00"))), Fire)


def test_what_was_missed_is_one_run_that_says_so() -> None:
    memory = Memory(slot=at("2026-06-01 03:00"))
    fire = decide(NIGHTLY, memory, Seen(at("2026-06-05 12:00")))
    assert isinstance(fire, Fire)
    assert fire.why == "cron 0 3 * * *: due 2026-06-05 03:00 UTC, and 3 earlier that passed without a run"
    assert decide(NIGHTLY, fire.memory, Seen(at("2026-06-05 12:01"))) is None
    often = TriggerConfig(cron="* * * * *")
    assert missed_slots(often, at("2020-01-01 00:00"), at("2026-01-01 00:00")) == 1000


def test_a_time_zones_clock_is_meant() -> None:
    berlin = TriggerConfig(cron="30 2 * * *", timezone="Europe/Berlin")
    assert next_slot(berlin, at("2026-06-01 00:00")) == at("2026-06-01 00:30")
    assert last_slot(berlin, at("2026-01-15 12:00")) == at("2026-01-15 01:30")


def test_neither_a_run_that_goes_on_nor_the_cooldown_loses_a_firing_and_a_pause_does() -> None:
    slow = TriggerConfig(alert="Drift", cooldown=3600.0)
    memory = Memory(slot=0.0, alert=3, fired_at=1000.0)
    assert decide(slow, memory, Seen(2000.0, alert=4)) is None
    assert decide(slow, memory, Seen(5000.0, alert=4, is_running=True)) is None
    fire = decide(slow, memory, Seen(5000.0, alert=5))
    assert isinstance(fire, Fire) and (fire.memory.alert, fire.why) == (5, "alert Drift fires (alert/5)")
    passed = decide(slow, replace(memory, paused_by="user:ann"), Seen(5000.0, alert=5))
    assert isinstance(passed, Memory) and passed.alert == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('cron = "0 3 * *"', "cron = '0 3 * *'"),
        ('cron = "0 3 31 2 *"', "Bad day-of-month"),
        ('cron = "0 3 * * *"\ntimezone = "Moon/Base"', "Moon/Base"),
        ('cron = "0 3 * * *"\nalert = "X"', "one of them"),
        ('cooldown = "1h"', "one of them"),
        ('data = ["../up"]', "inside the workspace"),
    ],
)
def test_a_trigger_that_cannot_be_meant_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"airboss.toml:\d+: pipeline\.own\.trigger") as refused:
        parse_config(f"{PIPELINE}[pipeline.own.trigger.t]\n{text}\n", Path("airboss.toml"))
    assert says in refused.value.message


PIPELINE = """
[pipeline.own]
kind = "stages"
params = { size = 1 }
[pipeline.own.stage.only]
command = "cat data/a.txt > out.txt && echo $PARAM_SIZE >> tally"
deps = ["data"]
outs = ["out.txt"]
params = ["size"]
"""


@dataclass
class Watch:
    """A workspace and its triggers on a clock of the test's own. `fresh` is another engine over the same store."""

    root: Path
    paths: Paths
    store: Store
    now: float
    runner: PipelineRunner | None = None

    async def fresh(self, toml: str) -> Triggers:
        if self.runner is not None:
            await self.runner.close()

        async def none() -> str:
            raise AssertionError("no stage here asks the registry")

        self.runner = PipelineRunner(
            self.store, Spawner(self.paths.run, self.paths.logs), self.paths, registry_socket=none, on_change=lambda ref: None
        )  # fmt: skip
        await self.runner.resume_all()
        config = parse_config(PIPELINE + toml, self.root / "airboss.toml")
        return Triggers(self.store, config, self.runner, self.root, clock=lambda: self.now)

    def runs(self) -> list[Run]:
        return self.store.read_now(lambda s: list(s.exec(select(Run).order_by(col(Run.created_at)))))

    async def settle(self) -> None:
        assert self.runner is not None
        for run in self.runs():
            if run.state == "running":
                await self.runner.wait(run.id, 120)


@pytest.fixture
async def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watch]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="ab-"))
    paths = Paths.of(tmp_path)
    paths.make()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("one\n")
    made = Watch(tmp_path, paths, Store.open(paths.store), at("2026-06-01 02:00"))
    yield made
    if made.runner is not None:
        await made.runner.close()
    made.store.close()


async def test_changed_data_starts_one_run_once_it_stands_still(watch: Watch) -> None:
    toml = '[pipeline.own.trigger.fresh]\ndata = ["data"]\nsettle = "10s"\nparams = { size = 7 }\n'
    triggers = await watch.fresh(toml)

    async def turn(seconds: float) -> int:
        watch.now += seconds
        await triggers.turn()
        return len(watch.runs())

    assert [await turn(0), await turn(11), await turn(11)] == [0, 0, 0]
    (watch.root / "data" / "b.txt").write_text("half")
    assert await turn(5) == 0
    (watch.root / "data" / "b.txt").write_text("and whole")
    assert [await turn(5), await turn(9), await turn(2), await turn(60)] == [0, 0, 1, 1]
    await watch.settle()
    (run,) = watch.runs()
    assert (run.created_by, run.params) == ("trigger:own.fresh", {"size": 7})
    assert run.reason.startswith("data changed: sha256 ")

    os.utime(watch.root / "data" / "b.txt")  # touched, and no other bytes
    assert [await turn(5), await turn(20)] == [1, 1]
    triggers = await watch.fresh(toml)
    (watch.root / "data" / "a.txt").write_text("changed while no engine ran\n")
    assert [await turn(5), await turn(20), await turn(20)] == [1, 2, 2]


async def test_an_engine_that_dies_as_it_fires_neither_repeats_nor_loses_the_run(watch: Watch) -> None:
    toml = '[pipeline.own.trigger.nightly]\ncron = "0 3 * * *"\n'
    triggers = await watch.fresh(toml)
    await triggers.turn()
    watch.now = at("2026-06-04 09:00")

    class Died(BaseException):
        """The process is gone: nothing after it is done."""

    assert watch.runner is not None
    begin = watch.runner._drive
    watch.runner._drive = lambda run_id: (_ for _ in ()).throw(Died)  # type: ignore[method-assign]
    with pytest.raises(Died):  # the row is on disk, and nothing drives it
        await triggers.turn()
    watch.runner._drive = begin  # type: ignore[method-assign]
    triggers = await watch.fresh(toml)
    await triggers.turn()
    await watch.settle()
    (run,) = watch.runs()
    assert (run.state, run.reason) == (
        "succeeded",
        "cron 0 3 * * *: due 2026-06-04 03:00 UTC, and 3 earlier that passed without a run",
    )
    kept = watch.store.read_now(lambda s: recall(s, "own.nightly"))
    assert kept is not None and kept.run == run.id

    real, watch.store.write = watch.store.write, None  # type: ignore[assignment]
    watch.now = at("2026-06-05 03:00")
    with pytest.raises(TypeError):  # it dies before anything is written
        await triggers.turn()
    watch.store.write = real  # type: ignore[method-assign]
    await triggers.turn()
    assert len(watch.runs()) == 2


async def test_an_alert_that_begins_to_fire_starts_a_run_and_an_old_one_does_not(watch: Watch) -> None:
    def alert(name: str, key: str) -> None:
        watch.store.write_now(
            lambda s: s.add(
                Alert(fingerprint=key, name=name, severity="ticket", summary="x", state="active", starts_at=time.time())
            )
        )

    alert("PromptDrift", "old")
    triggers = await watch.fresh('[pipeline.own.trigger.drift]\nalert = "PromptDrift"\n')
    await triggers.turn()
    alert("Slow", "other")
    await triggers.turn()
    assert watch.runs() == []
    alert("PromptDrift", "new")
    await triggers.turn()
    await triggers.turn()
    assert [run.reason for run in watch.runs()] == ["alert PromptDrift fires (alert/3): x"]


@pytest.mark.deep
async def test_a_proposal_carries_its_evidence_and_waits_for_somebody_to_approve_it(watch: Watch) -> None:
    triggers = await watch.fresh(
        '[pipeline.own.trigger.drift]\nalert = "PromptDrift"\napproval = true\ncooldown = "6h"\n'
    )

    def alert(key: str, says: str) -> None:
        watch.store.write_now(
            lambda s: s.add(
                Alert(
                    fingerprint=key, name="PromptDrift", severity="ticket", summary=says, state="active", starts_at=1.0
                )
            )
        )

    await triggers.turn()
    assert watch.store.write_now(lambda s: approve(s, "own.drift", "user:ann")) == ""
    alert("a", "KL 0.7 nats, 400 prompts")
    await triggers.turn()
    await triggers.turn()
    (view,) = watch.store.read_now(triggers.views)
    why = "alert PromptDrift fires (alert/1): KL 0.7 nats, 400 prompts"
    assert (view["state"], view["proposed"], watch.runs()) == ("proposes", why, [])
    assert watch.store.write_now(lambda s: approve(s, "own.drift", "user:ann")) == why
    triggers = await watch.fresh(
        '[pipeline.own.trigger.drift]\nalert = "PromptDrift"\napproval = true\ncooldown = "6h"\n'
    )
    await triggers.turn()  # another engine than the one that was asked
    await triggers.turn()
    (run,) = watch.runs()
    assert run.reason == f"{why}; approved by user:ann"
    (view,) = watch.store.read_now(triggers.views)
    assert (view["state"], view["proposed"]) == ("armed", "")
    await watch.settle()
    alert("b", "KL 0.8 nats, 500 prompts")
    await triggers.turn()
    assert watch.store.read_now(triggers.views)[0]["proposed"] == ""  # the cooldown has not passed
    watch.now += 7 * 3600
    await triggers.turn()
    assert "KL 0.8" in watch.store.read_now(triggers.views)[0]["proposed"]


async def test_a_paused_trigger_and_one_that_cannot_start_say_so(watch: Watch) -> None:
    toml = '[pipeline.own.trigger.nightly]\ncron = "0 3 * * *"\nparams = { colour = "red" }\n'
    triggers = await watch.fresh(toml)
    await triggers.turn()
    assert watch.store.write_now(lambda s: set_paused(s, "own.nightly", "user:ann"))
    watch.now = at("2026-06-02 04:00")
    await triggers.turn()
    (view,) = watch.store.read_now(triggers.views)
    assert (view["state"], view["paused_by"], view["next_at"]) == ("paused", "user:ann", None)
    assert watch.store.write_now(lambda s: set_paused(s, "own.nightly", ""))
    await triggers.turn()  # what came while it was paused is passed over
    (view,) = watch.store.read_now(triggers.views)
    assert (view["state"], view["next_at"], view["trouble"]) == ("armed", at("2026-06-03 03:00"), "")
    watch.now = at("2026-06-03 03:00")
    await triggers.turn()
    await triggers.turn()
    (view,) = watch.store.read_now(triggers.views)
    assert view["state"] == "trouble" and "has no parameter 'colour'" in view["trouble"]
    assert watch.runs() == []
