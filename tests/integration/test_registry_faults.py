"""A real MLflow server behind a proxy that fails: what each fault says, and that a rollback never waits for it."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rollout_room import GOOD, NO_WORD, Room
from sqlmodel import Session, select

from adapters.mlflow_access import prepare
from adapters.mlflow_registry import MlflowRegistry
from engine.rollouts.registry_queue import RegistryQueue
from state.models import Intent, Release
from state.server_config import Credentials, ServerAccess
from state.store import Store
from state.words import AirbossError, OperationFailed, RolloutState, Unreachable
from tests.integration.access.conftest import issue
from tests.mlflow_server import Proxy, mlflow_server


@pytest.fixture(autouse=True)
def _nobody_yet() -> Iterator[None]:
    """MLflow takes who we are from the environment: what a test put there goes with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    found = Proxy(server)
    yield found
    found.close()


def versions(url: str, model: str, count: int) -> MlflowRegistry:
    """A registry with a model of so many versions, which are names only; version 1 is its champion."""
    registry = MlflowRegistry(url=url)
    registry._client.create_registered_model(model)
    for _ in range(count):
        registry._client.create_model_version(model, source="s3://nowhere/model")
    registry.set_alias(model, "champion", "1")
    return registry


@pytest.mark.parametrize(
    ("mode", "kind", "says", "todo"),
    [
        ("down", Unreachable, "cannot be read", "see that the MLflow server runs"),
        ("slow", Unreachable, "did not answer in time", "raise [registry] timeout"),
        ("500", Unreachable, "answered 500", "see the MLflow server's log"),
        ("503", Unreachable, "answered 503", "see the MLflow server's log"),
        ("401", OperationFailed, "MLflow denies it", "see [registry] access"),
        ("403", OperationFailed, "MLflow denies it", "see [registry] access"),
        ("html", Unreachable, "does not speak MLflow's JSON", "login page"),
    ],
)
def test_each_fault_of_a_server_says_what_it_is_and_what_to_do(
    proxy: Proxy, mode: str, kind: type[AirbossError], says: str, todo: str
) -> None:
    registry = MlflowRegistry(url=proxy.url)
    prepare(None, 1.0 if mode == "slow" else 20.0)
    proxy.mode = mode
    asked = len(proxy.asked)
    with pytest.raises(AirbossError) as met:
        registry.aliases("chat")
    assert isinstance(met.value, kind), met.value
    assert says in met.value.message and todo in met.value.hint, met.value
    assert len(proxy.asked) == asked + 1, "one try: whoever calls tries again"


def test_a_version_deleted_under_our_feet_is_said_to_be_gone(server: str) -> None:
    registry = versions(server, "deleted", 2)
    registry._client.delete_model_version("deleted", "2")
    with pytest.raises(OperationFailed) as gone:
        registry.set_alias("deleted", "champion", "2")
    assert gone.value.code == "not_found"
    registry._client.delete_model_version("deleted", "1")
    assert registry.aliases("deleted") == {}, "MLflow deletes a version's aliases without a word"


@pytest.mark.parametrize("how", ["token", "password"])
def test_a_secret_by_file_says_who_we_are_and_a_renewed_one_counts(proxy: Proxy, tmp_path: Path, how: str) -> None:
    (tmp_path / "secret").write_text("first\n")
    given = {"token": "file:secret"} if how == "token" else {"username": "airboss", "password": "file:secret"}
    access = ServerAccess.model_validate(given)
    for word in ("first", "second"):
        (tmp_path / "secret").write_text(word)
        MlflowRegistry(url=proxy.url, credentials=Credentials.of(access, tmp_path))
        basic = base64.b64encode(f"airboss:{word}".encode()).decode()
        wanted = f"Bearer {word}" if how == "token" else f"Basic {basic}"
        assert proxy.headers[-1]["authorization"] == wanted
    MlflowRegistry(url=proxy.url, credentials=Credentials())
    assert "authorization" not in proxy.headers[-1]


@pytest.mark.deep
def test_a_server_that_asks_for_a_certificate_gets_ours_and_another_authority_is_refused(tmp_path: Path) -> None:
    authority = issue(tmp_path, "authority", "ca-")
    for name in ("server", "client"):
        issue(tmp_path, name, f"{name}-", authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca-cert.pem"))
    context.load_cert_chain(tmp_path / "server-cert.pem", tmp_path / "server-key.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"registered_models": []}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            url = f"https://127.0.0.1:{listening.server_port}"
            ours = ServerAccess(ca="ca-cert.pem", cert="client-cert.pem", key="client-key.pem")
            registry = MlflowRegistry(url=url, credentials=Credentials.of(ours, tmp_path))
            registry.close()
            with pytest.raises(Unreachable, match="certificates do not agree") as met:
                MlflowRegistry(url=url, credentials=Credentials())
            assert "ca has the authority" in met.value.hint
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.deep
async def test_a_rollback_goes_on_while_the_registry_is_down_and_the_registry_catches_up(
    proxy: Proxy, tmp_path: Path
) -> None:
    versions(proxy.target, "m", 2).close()
    store = Store.open(tmp_path / "state.db")
    room = Room(store, tmp_path)
    for version, name in enumerate("ab", start=1):
        room.store.write_now(lambda s, n=name, v=version: setattr(s.get_one(Release, n), "model_version", str(v)))

    async def registry() -> MlflowRegistry:
        return await asyncio.to_thread(lambda: MlflowRegistry(url=proxy.url))

    queue = RegistryQueue(store, registry, lambda ref, said: None)
    begun = await room.deploy("b")
    rollout_id = begun.ref.removeprefix("rollout/")
    room.counts.canary = GOOD
    await room.until(rollout_id, RolloutState.VERIFYING)
    room.counts.canary = NO_WORD
    await queue._turn()
    seen = MlflowRegistry(url=proxy.target)
    assert seen.aliases("m") == {"champion": "2", "previous-champion": "1"}

    proxy.mode = "down"
    await room.ask("rollback", "service/chat")
    await room.until(rollout_id, RolloutState.ROLLED_BACK)
    assert room.weights() == {"a": 100}
    for mode in ("down", "500", "401"):
        proxy.mode = mode
        with pytest.raises(AirbossError):
            await queue._turn()
        assert room.row(rollout_id).registry_sync == "pending"
    assert seen.aliases("m")["champion"] == "2", "nothing reached it"
    proxy.mode = "ok"
    room.store.write_now(_due)
    await queue._turn()
    assert seen.aliases("m")["champion"] == "1"
    assert room.row(rollout_id).registry_sync == "ok"
    assert seen.version("m", "1").tags["airboss.stage"] == "Production"
    store.close()


def _due(session: Session) -> None:
    for intent in session.exec(select(Intent)):
        intent.outcome = {**intent.outcome, "retry_at": 0.0}
        session.add(intent)
