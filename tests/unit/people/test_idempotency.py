"""`--idempotency-key`: asked again, a verb is answered as before and not done again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlmodel import select

from console.commands.grammar import parse_args
from console.commands.script_lines import read
from console.script import Script
from engine.access import Actor
from engine.api.schemas import VerbRequest, VerbResult
from engine.operations import door, once
from engine.operations.desk import Desk
from engine.operations.once import Once, digest_of
from state import audit
from state.kept_answers import KeptAnswer
from state.models import Lease, Rollout
from state.words import AirbossError, Conflict, Denied, ExitCode, OperationFailed, TimedOut, UsageError

KEY = "job-1"
DEPLOY = {"release": "charlm-2", "env": "dev"}


def rollouts(office: Any) -> list[str]:
    return list(office.store.read_now(lambda s: s.exec(select(Rollout.id)).all()))


def kept(office: Any) -> list[KeptAnswer]:
    return list(office.store.read_now(lambda s: s.exec(select(KeptAnswer)).all()))


def another_engine(office: Any) -> None:
    """What was at work died with the engine before."""
    office.desk = replace(office.desk, once=Once())


async def refused(asked: Any, kind: type[AirbossError]) -> AirbossError:
    with pytest.raises(kind) as caught:
        await asked
    return caught.value


async def test_asked_again_it_is_answered_as_before_and_not_done_again(office: Any) -> None:
    first = await office.ask("olga", "deploy", "service/chat", args=DEPLOY, idempotency_key=KEY)
    again = await office.ask("olga", "deploy", "service/chat", args=DEPLOY, idempotency_key=KEY, confirm_name="")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.model_copy(update={"replayed": False}) == first
    assert rollouts(office) == [first.ref.partition("/")[2]]
    another_engine(office)
    assert (await office.ask("olga", "deploy", "service/chat", args=DEPLOY, idempotency_key=KEY)).ref == first.ref


async def test_two_at_once_are_done_once(office: Any) -> None:
    asked = [office.ask("olga", "deploy", "service/chat", args=DEPLOY, idempotency_key=KEY) for _ in range(5)]
    answers = await asyncio.gather(*asked)
    assert len({a.ref for a in answers}) == 1 and sum(not a.replayed for a in answers) == 1
    assert len(rollouts(office)) == 1


async def test_another_request_under_the_key_is_a_conflict(office: Any) -> None:
    await office.ask("olga", "note", "env/dev", args={"text": "one"}, idempotency_key=KEY)
    error = await refused(office.ask("olga", "note", "env/dev", args={"text": "two"}, idempotency_key=KEY), Conflict)
    assert (error.code, error.exit) == ("idempotency_key", ExitCode.CONFLICT)
    assert office.audit().count(("user:olga", "note")) == 1


async def test_a_key_belongs_to_one_user(office: Any) -> None:
    for who in ("olga", "ci"):
        done = await office.ask(who, "note", "env/production", args={"text": "x"}, idempotency_key=KEY)
        assert not done.replayed
    assert [a for a, what in office.audit() if what == "note"] == ["user:olga", "user:ci"]


async def test_a_refusal_leaves_the_key_free(office: Any) -> None:
    await refused(office.ask("vera", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY), Denied)
    error = await refused(
        office.ask("olga", "deploy", "service/chat", args={"release": "none", "env": "dev"}, idempotency_key=KEY),
        AirbossError,
    )
    assert not isinstance(error, OperationFailed) and kept(office) == []
    assert not (await office.ask("olga", "deploy", "service/chat", args=DEPLOY, idempotency_key=KEY)).replayed


async def test_a_refused_move_is_audited_and_leaves_the_key_free(office: Any) -> None:
    rollout = await office.deploy(env="dev")
    await refused(office.ask("olga", "rollout.resume", f"rollout/{rollout}", idempotency_key=KEY), Conflict)
    assert ("user:olga", "rollout.refused") in office.audit() and kept(office) == []


async def test_a_dry_run_does_not_use_the_key(office: Any) -> None:
    await office.ask("olga", "deploy", "service/chat", args=DEPLOY, idempotency_key=KEY, dry_run=True)
    assert kept(office) == [] and rollouts(office) == []


async def test_an_answer_expires(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "KEEP_S", 0.0)
    for _ in range(2):
        done = await office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY)
        assert not done.replayed
    assert office.audit().count(("user:olga", "note")) == 2 and len(kept(office)) == 1


Handler = Callable[[Desk, VerbRequest, Actor], Any]


def instead(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> None:
    monkeypatch.setitem(door.HANDLERS, "note", handler)


def done_note(ops: Desk, request: VerbRequest, actor: Actor, action: str = "note") -> Any:
    return ops.store.write(lambda s: audit.append(s, actor=actor.name, action=action, ref="env:dev", reason="x"))


async def test_while_it_is_at_work_who_asks_again_is_told_so(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = asyncio.Event()

    async def slow(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
        await goes_on.wait()
        return VerbResult(verb="note", ref=request.ref, changed=True, message="slow")

    instead(monkeypatch, slow)
    monkeypatch.setattr(once, "JOIN_S", 0.05)
    first = asyncio.create_task(office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY))
    await asyncio.sleep(0)
    error = await refused(office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY), TimedOut)
    assert (error.code, error.exit, error.retryable) == ("still_at_work", ExitCode.TIMEOUT, True)
    other = await refused(office.ask("olga", "note", "env/dev", args={"text": "y"}, idempotency_key=KEY), Conflict)
    assert other.code == "idempotency_key"
    # Who hangs up does not stop it: the answer is kept for whoever asks again.
    first.cancel()
    goes_on.set()
    monkeypatch.setattr(once, "JOIN_S", 20.0)
    again = await office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY)
    assert (again.message, again.replayed) == ("slow", True)


@pytest.mark.parametrize("error", [OperationFailed("the hook did not take it"), RuntimeError("a bug")])
async def test_a_failure_after_a_change_is_kept(office: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def fails(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
        await done_note(ops, request, actor)
        raise error

    instead(monkeypatch, fails)
    for _ in range(2):
        with pytest.raises((OperationFailed, RuntimeError), match=str(error)):
            await office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY)
    assert office.audit().count(("user:olga", "note")) == 1


async def died(office: Any, monkeypatch: pytest.MonkeyPatch, action: str | None) -> None:
    """The engine ends within a note: before, or after, an audit row of `action` is written."""
    forever = asyncio.Event()

    async def dies(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
        if action is not None:
            await done_note(ops, request, actor, action)
        await forever.wait()
        raise AssertionError

    with monkeypatch.context() as patch:
        instead(patch, dies)
        asked = asyncio.create_task(office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY))
        while not any(k.audit_id or action is None for k in kept(office)):
            await asyncio.sleep(0.005)
        asked.cancel()
    dead: Once = office.desk.once
    another_engine(office)
    # What was at work ends here: left to the collector, it would be closed outside of its own context.
    tasks = [going.task for going in dead._going.values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_killed_before_anything_was_written_it_is_done_now(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await died(office, monkeypatch, None)
    done = await office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY)
    assert not done.replayed and office.audit().count(("user:olga", "note")) == 1


async def test_killed_after_it_was_written_it_is_answered_from_the_record(
    office: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await died(office, monkeypatch, "note")
    done = await office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY)
    assert done.replayed and done.changed and "it was done (audit row" in done.message
    assert office.audit().count(("user:olga", "note")) == 1


async def test_killed_between_two_parts_nobody_claims_to_know(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await died(office, monkeypatch, "service.restart")
    error = await refused(office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=KEY), Conflict)
    assert error.code == "idempotency_unknown" and "audit row" in error.message


@pytest.mark.parametrize("key", ["x" * 201, "two\nlines", " edge"])
async def test_a_key_that_is_none_is_refused(office: Any, key: str) -> None:
    error = await refused(office.ask("olga", "note", "env/dev", args={"text": "x"}, idempotency_key=key), UsageError)
    assert error.code == "idempotency_key"


def test_a_moment_named_twice_is_the_same_request() -> None:
    line = ["freeze", "start", "--env", "dev", "--until", "2099-01-01T00:00Z", "--yes", "--idempotency-key", KEY]
    first, again = parse_args(line).request, parse_args([*line, "--expect-revision", "4"]).request
    other = parse_args([*line[:5], "2099-01-02T00:00Z", *line[6:]]).request
    assert isinstance(first, VerbRequest) and isinstance(again, VerbRequest) and isinstance(other, VerbRequest)
    assert first.args["until_s"] != again.args["until_s"]
    assert digest_of(first) == digest_of(again) != digest_of(other)


async def test_a_freeze_until_a_moment_is_begun_once(office: Any) -> None:
    for seconds in (600.0, 599.0):
        args = {"env": "dev", "until_s": seconds, "until": "2099-01-01T00:00Z"}
        await office.ask("olga", "freeze.start", "env/dev", args=args, idempotency_key=KEY)
    (row,) = office.store.read_now(lambda s: list(s.exec(select(Lease)).all()))
    assert office.audit().count(("user:olga", "freeze.start")) == 1 and row.kind == "freeze"


def test_a_script_s_key_is_one_for_each_of_its_lines() -> None:
    options = parse_args(["--script", "-", "--idempotency-key", "ci-7"]).options
    lines = read("note env/dev one\nnote env/dev two --idempotency-key own\n")
    script = Script(lines, options)
    keys = [script.parse(line, {}).request.idempotency_key for line in lines]  # type: ignore[union-attr]
    assert keys == ["ci-7/1", "own"]


@pytest.mark.parametrize("line", ["rollout list", "status", "state backup"])
def test_a_line_that_changes_nothing_in_the_engine_takes_no_key(line: str) -> None:
    with pytest.raises(UsageError, match="belongs to a verb"):
        parse_args([*line.split(), "--idempotency-key", KEY])
