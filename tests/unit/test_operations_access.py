"""Who may do what through the one door for verbs, and that nobody else gets at the engine's socket."""

from __future__ import annotations

import grp
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from sqlmodel import Session, select

from console.client import EngineClient
from engine.access import Actor
from engine.api.app import make_app
from engine.api.reader import Reader
from engine.api.schemas import VerbRequest, VerbResult
from engine.lock import EngineLock
from engine.observe.alerts import AlertBook
from engine.operations.desk import Desk
from engine.operations.door import do
from engine.pipelines.runner import PipelineRunner
from engine.restored.standing import Standing
from engine.rollouts.controller import Controller
from engine.verbs import rollout_refusal
from state import audit
from state.config import parse_config
from state.models import Alert, Audit, Lease
from state.paths import Paths
from state.store import Store
from state.words import Conflict, Denied, RolloutState, UsageError

TOML = """
[workspace]
name = "shop"
[service.chat]
pipeline = "charlm"
[environment.dev]
protected = false
[environment.production]
[pipeline.charlm]
[roles.dev]
admin = ["bob", "ann"]
[roles.production]
viewer = ["bob"]
operator = ["olga"]
admin = ["ann"]
"""
BOB, OLGA, ANN = (Actor(70000 + i, user, frozenset()) for i, user in enumerate(("bob", "olga", "ann")))
SURE: dict[str, Any] = {"yes": True, "confirm_name": "shop", "reason": "test"}


@dataclass
class Office:
    """A desk over a real store, without the engine's processes."""

    store: Store
    stops: list[bool] = field(default_factory=list)

    def desk(self, toml: str = TOML) -> Desk:
        """The desk of the workspace that `toml` describes."""
        config = parse_config(toml, Path("airboss.toml"))
        return Desk(
            store=self.store, config=config, controller=cast(Controller, None), runner=cast(PipelineRunner, None),
            alerts=AlertBook(self.store), workspace=Path("/nowhere/shop"), on_change=lambda ref, said: None,
            stop=self.stops.append, restored=cast(Standing, None), public_url=str,
        )  # fmt: skip

    async def ask(self, actor: Actor, verb: str, ref: str, /, **more: Any) -> VerbResult:
        """Ask for a verb at the door."""
        return await do(self.desk(), VerbRequest(verb=verb, ref=ref, **more), actor)

    def alert(self, env: str, service: str = "chat") -> str:
        """A reference to a new active alert."""

        def add(session: Session) -> int:
            row = Alert(fingerprint=f"{env}{time.time()}", name="SlowBurn", severity="page", service=service, env=env,
                        summary="slow", state="active", starts_at=1.0)  # fmt: skip
            session.add(row)
            session.flush()
            return row.id or 0

        return f"alert/{self.store.write_now(add)}"

    def lease(self, name: str) -> tuple[str, str, float]:
        """Holder, reason and end of a hold or freeze."""
        row = self.store.read_now(lambda s: s.get_one(Lease, name))
        return row.holder, row.reason, row.ends_at

    def actions(self) -> list[str]:
        """What the audit log has."""
        return list(self.store.read_now(lambda s: s.exec(select(Audit.action)).all()))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    store = Store.open(tmp_path / "state.db")
    yield Office(store)
    store.close()


@pytest.mark.parametrize("verb", ["engine.down", "engine.drain"])
async def test_an_admin_of_one_environment_may_not_stop_the_engine_of_all(office: Office, verb: str) -> None:
    with pytest.raises(Denied, match="in production"):
        await office.ask(BOB, verb, "engine", **SURE)
    assert office.actions() == []
    assert (await office.ask(ANN, verb, "engine", **SURE)).changed


async def test_draining_asks_for_what_the_strictest_environment_asks(office: Office) -> None:
    with pytest.raises(UsageError, match="name"):
        await office.ask(ANN, "engine.drain", "engine", yes=True)


async def test_a_read_only_environment_forbids_to_drain_it_and_not_to_stop_the_engine(office: Office) -> None:
    desk = office.desk(TOML.replace("[environment.production]", "[environment.production]\nread_only = true"))
    with pytest.raises(Denied, match="read-only"):
        await do(desk, VerbRequest(verb="engine.drain", ref="engine", **SURE), ANN)
    assert (await do(desk, VerbRequest(verb="engine.down", ref="engine", **SURE), ANN)).changed


@pytest.mark.parametrize(
    ("verb", "ref"), [("pipeline.run", "pipeline/charlm"), ("run.cancel", "run/run-1"), ("run.retry", "run/run-1")]
)
async def test_a_pipeline_takes_the_role_wherever_its_releases_may_serve(office: Office, verb: str, ref: str) -> None:
    with pytest.raises(Denied, match="production"):
        await office.ask(BOB, verb, ref, yes=True)


async def test_alerts_are_their_environments_operators(office: Office) -> None:
    production, dev, both = office.alert("production"), office.alert("dev"), office.alert("")
    for ref in (production, both):
        for verb in ("alert.ack", "alert.silence"):
            with pytest.raises(Denied, match="operator"):
                await office.ask(BOB, verb, ref, confirm_name="chat", reason="test")
    assert (await office.ask(BOB, "alert.ack", dev)).changed
    with pytest.raises(UsageError, match="confirmed"):
        await office.ask(OLGA, "alert.silence", production, yes=True)
    assert (await office.ask(OLGA, "alert.silence", production, confirm_name="chat", reason="known")).changed
    with pytest.raises(Denied, match="in production"):
        await office.ask(BOB, "alert.unsilence", "silence/1")
    assert (await office.ask(OLGA, "alert.unsilence", "silence/1")).changed
    with pytest.raises(Conflict, match="no silence 9"):
        await office.ask(OLGA, "alert.unsilence", "silence/9")


async def test_a_note_takes_an_operator_there_or_anywhere(office: Office) -> None:
    stranger = Actor(70009, "eve", frozenset())
    for ref in ("env/production", office.alert("production")):
        with pytest.raises(Denied):
            await office.ask(BOB, "note", ref, args={"text": "hi"})
        assert (await office.ask(OLGA, "note", ref, args={"text": "hi"})).changed
    assert (await office.ask(BOB, "note", "release/charlm-3", args={"text": "hi"})).changed
    with pytest.raises(Denied):
        await office.ask(stranger, "note", "release/charlm-3", args={"text": "hi"})


async def test_a_freeze_of_an_environment_that_is_not_there_is_refused_by_name(office: Office) -> None:
    for env in ({"ref": "env/prodution"}, {"ref": "engine", "args": {"env": "prodution"}}):
        with pytest.raises(UsageError, match="prodution") as refused:
            await do(office.desk(), VerbRequest(verb="freeze.start", yes=True, **env), ANN)
        assert "dev, production" in refused.value.hint


async def test_a_freeze_everywhere_takes_the_role_everywhere(office: Office) -> None:
    with pytest.raises(Denied, match="in production"):
        await office.ask(BOB, "freeze.start", "env/*", yes=True, reason="launch")
    assert (await office.ask(ANN, "freeze.start", "env/*", yes=True, reason="launch")).changed


async def test_a_second_freeze_never_shortens_the_first_and_names_both(office: Office) -> None:
    def freeze(actor: Actor, until_s: object, reason: str) -> Any:
        return office.ask(actor, "freeze.start", "env/dev", yes=True, reason=reason, args={"until_s": until_s})

    await freeze(ANN, 7200, "launch")
    before = office.lease("freeze/dev")[2]
    result = await freeze(BOB, 60, "tidying")
    assert office.lease("freeze/dev") == ("user:ann, user:bob", "launch; tidying", before)
    assert "7200 s" in result.message or "7199 s" in result.message
    await freeze(BOB, 9000, "tidying")
    holder, reason, ends_at = office.lease("freeze/dev")
    assert (holder, reason) == ("user:ann, user:bob", "launch; tidying") and ends_at > before
    await office.ask(ANN, "freeze.end", "env/dev", yes=True)
    await freeze(BOB, 60, "again")
    assert office.lease("freeze/dev")[:2] == ("user:bob", "again")
    assert not (await office.ask(ANN, "freeze.end", "env/production", yes=True)).changed


@pytest.mark.parametrize("until_s", ["soon", -1, 0, True, [], float("inf"), float("nan")])
async def test_a_time_that_is_no_number_is_a_usage_error(office: Office, until_s: object) -> None:
    with pytest.raises(UsageError, match="until_s"):
        await office.ask(OLGA, "hold", "env/production", args={"until_s": until_s})


async def test_a_freeze_has_an_end_that_can_be_shown(office: Office) -> None:
    with pytest.raises(UsageError, match="a year at most"):
        await office.ask(ANN, "freeze.start", "env/dev", args={"until_s": 1e300}, **SURE)


@pytest.mark.parametrize(
    ("verb", "ref", "args"),
    [
        ("alert.ack", f"alert/{'9' * 30}", {}),
        ("alert.unsilence", f"silence/{'9' * 30}", {}),
        ("glass.ack", f"glass/{'9' * 30}", {}),
        ("hook.redeliver", f"delivery/{'9' * 30}", {}),
        ("pipeline.run", "pipeline/charlm", {"set": "x"}),
    ],
)
async def test_what_no_store_can_hold_is_refused_and_breaks_nothing(
    office: Office, verb: str, ref: str, args: dict[str, Any]
) -> None:
    with pytest.raises((UsageError, Conflict)):
        await office.ask(ANN, verb, ref, args=args, **SURE)


@pytest.mark.parametrize("target_s", ["soon", [1], True, float("inf")])
async def test_a_drills_record_that_status_could_not_read_is_refused(office: Office, target_s: object) -> None:
    args = {"env": "dev", "name": "kill", "outcome": "met", "measured": {}, "target_s": target_s}
    with pytest.raises(UsageError, match="target_s is a number"):
        await office.ask(BOB, "drill.finish", "service/chat", args=args)
    assert office.actions() == []


@pytest.mark.parametrize("limit", ["-1", "0", "9" * 30])
async def test_no_limit_asks_for_the_whole_log(office: Office, limit: str) -> None:
    for _ in range(3):
        office.store.write_now(lambda s: audit.append(s, actor="a", action="b", ref="c:d"))
    reader = cast(Reader, SimpleNamespace(store=office.store, config=office.desk().config))
    transport = httpx.ASGITransport(make_app(reader, office.desk()))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        rows = (await client.get("/v1/audit", params={"limit": limit})).json()
    assert len(rows) == (3 if limit.startswith("9") else 1)


@pytest.mark.parametrize("verb", ["rollout.approve", "rollout.reject"])
def test_an_approval_step_can_be_approved(verb: str) -> None:
    assert rollout_refusal(verb, RolloutState.STEP_BAKING, "approval") is None
    assert rollout_refusal(verb, RolloutState.STEP_BAKING, "weight") and rollout_refusal(verb, RolloutState.STEP_BAKING)


@pytest.mark.parametrize("verb", ["rollout.promote", "rollout.weight"])
@pytest.mark.parametrize("state", [RolloutState.STEP_BAKING, RolloutState.PAUSED])
def test_no_operator_walks_past_an_approval_step(verb: str, state: RolloutState) -> None:
    assert rollout_refusal(verb, state, "approval") == "it waits for an approval"
    assert rollout_refusal(verb, state, "weight") is None


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files, short enough for sockets, and no XDG_RUNTIME_DIR."""
    with tempfile.TemporaryDirectory(prefix="ab-", dir="/tmp") as made:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", made)
        yield Path(made)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_wide_umask_does_not_open_the_sockets_directories(runtime: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Paths.of(tmp_path).make()
    finally:
        os.umask(before)
    assert [_mode(path) for path in Paths.of(tmp_path).socket_dirs] == [0o700] * 3


def _open_to_all(path: Path) -> None:
    path.mkdir(parents=True, mode=0o700)
    path.chmod(0o777)


def _link(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.symlink_to("/tmp")


def _given_away(path: Path) -> None:
    path.mkdir(parents=True, mode=0o700)
    os.chown(path, 65534, -1)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_open_to_all, "may be written to by others"),
        (_link, "is no directory"),
        pytest.param(
            _given_away, "another user", marks=pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
        ),
    ],
)
def test_sockets_are_not_put_where_others_may_write(
    runtime: Path, tmp_path: Path, depth: int, spoil: Callable[[Path], None], said: str
) -> None:
    paths = Paths.of(tmp_path)
    spoil(paths.socket_dirs[depth])
    with pytest.raises(UsageError, match=said) as refused:
        paths.make()
    assert str(paths.socket_dirs[depth]) in refused.value.message and refused.value.hint


def test_a_socket_group_may_reach_the_socket_and_list_nothing(runtime: Path, tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    paths = Paths.of(tmp_path)
    paths.make()
    with EngineLock(paths, group) as lock, lock.listen():
        assert [_mode(path) for path in paths.socket_dirs] == [0o710] * 3
        assert _mode(paths.engine_socket) == 0o660
    paths.make()
    with EngineLock(paths) as lock, lock.listen():
        assert _mode(paths.engine_socket) == 0o600


def test_a_client_asks_the_engine_where_it_listens_whatever_its_own_runtime_directory(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths.of(tmp_path)
    paths.make()
    assert paths.live_engine_socket() == paths.engine_socket
    listens = paths.engine_socket
    paths.engine_info.write_text(json.dumps({"pid": 1, "socket": str(listens)}))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert paths.engine_socket != listens
    with EngineClient.for_workspace(tmp_path) as client, socket.socket(socket.AF_UNIX) as engine:
        engine.bind(client.address.socket)
        assert client.address.socket == str(listens)
    for said in ("{ not json", "[]", '{"socket": ""}', '{"pid": 1}'):
        paths.engine_info.write_text(said)
        assert paths.live_engine_socket() == paths.engine_socket
