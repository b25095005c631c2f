"""One contract, three registries: MLflow in this process, behind the worker's socket, and (long) an MLflow server."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.local.child import ChildSpec
from adapters.ports import ModelFile, Registration, Registry
from adapters.registry_client import RegistryClient
from state.digests import bundle_digest, hash_tree
from state.words import Conflict, OperationFailed, Unreachable, UsageError
from tests.mlflow_server import mlflow_server

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0


class Worker:
    """A registry worker process on a socket, started and killed as the engine would."""

    def __init__(self, home: Path, payload: dict[str, Any]) -> None:
        self.home = home
        self.run = Path(tempfile.mkdtemp(prefix="ab-reg-"))  # a socket's path has to be short
        self.socket = self.run / "reg.sock"
        self.spec = ChildSpec("r1", "registry", self.run, str(self.socket), "", payload)
        self.spec.write(self.run / "r1.spec.json")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> RegistryClient:
        with (self.home / "worker.out").open("ab") as out, (self.home / "worker.err").open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "adapters.registry_worker", str(self.run / "r1.spec.json")],
                cwd=self.home,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return RegistryClient(self.socket)

    def wait(self, client: RegistryClient, ready: bool = True) -> dict[str, Any]:
        """The first handshake that says `ready`, or the first at all."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            with contextlib.suppress(Unreachable):
                answer = client.handshake()
                if answer["ready"] or answer["error"] or not ready:
                    return answer
            time.sleep(0.05)
        raise AssertionError((self.home / "worker.err").read_text())

    def stop(self, signum: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self.run)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.safetensors").write_bytes(os.urandom(200_000))
    (bundle / "config.json").write_text('{"architecture": "airboss-gpt"}')
    return tmp_path


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    home = tmp_path_factory.mktemp("worker")
    found = Worker(home, {"mlflow_dir": str(home / "mlflow")})
    with found.start() as client:
        assert found.wait(client)["ready"]
    yield found
    found.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(params=["direct", "worker", pytest.param("server", marks=pytest.mark.deep)])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    from adapters.mlflow_registry import MlflowRegistry

    match request.param:
        case "direct":
            yield MlflowRegistry(mlflow_dir=_direct_dir(tmp_path_factory))
        case "worker":
            with RegistryClient(request.getfixturevalue("worker").socket) as client:
                yield client
        case _:
            yield MlflowRegistry(url=request.getfixturevalue("server"))


def _direct_dir(factory: pytest.TempPathFactory) -> Path:
    """One store for all tests of the module: making its tables takes longer than they do."""
    path = factory.getbasetemp() / "direct-mlflow"
    path.mkdir(exist_ok=True)
    return path


_names = iter(range(1, 1_000_000))


def registration(home: Path, **changes: Any) -> Registration:
    files = hash_tree(home / "bundle")
    base = Registration(
        model_name=f"chat-{next(_names)}-{os.getpid()}",
        build_key="key-1",
        bundle_path=home / "bundle",
        files=tuple(ModelFile(file.path, file.sha256, file.size) for file in files),
        digest=bundle_digest(files),
        params={"seed": "1337", "train.steps": "300"},
        metrics={"heldout_bpc": 2.55},
        dataset_name="pydoc_data.topics",
        dataset_sha256="ab" * 32,
        dataset_path=home,
        tags={"airboss.service": "chat"},
    )
    return replace(base, **changes)


def test_a_version_has_the_digests_of_its_files_and_its_data(registry: Registry, home: Path) -> None:
    asked = registration(home)
    made = registry.register(asked)
    assert made.version == "1"
    assert made.tags["airboss.artifact_sha256"] == made.tags["airboss.digest"] == asked.digest
    assert all(file.sha256 in made.tags["airboss.files"] for file in asked.files)
    assert made.tags["airboss.dataset_sha256"] == "ab" * 32
    assert made.tags["airboss.stage"] == "Development"
    assert made.tags["airboss.service"] == "chat"
    assert registry.version(asked.model_name, "1") == made


def test_registering_again_finds_the_same_version_and_another_key_makes_another(registry: Registry, home: Path) -> None:
    asked = registration(home)
    assert registry.register(asked) == registry.register(asked)
    assert registry.register(replace(asked, build_key="key-2")).version == "2"


def test_a_build_key_stands_for_one_set_of_bytes(registry: Registry, home: Path) -> None:
    asked = registration(home)
    registry.register(asked)
    (home / "bundle" / "config.json").write_text("{}")
    with pytest.raises(Conflict, match="other bytes"):
        registry.register(registration(home, model_name=asked.model_name))


def test_a_bundle_that_is_not_what_it_says_is_refused_before_anything_is_written(
    registry: Registry, home: Path
) -> None:
    asked = registration(home)
    (home / "bundle" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(OperationFailed, match=r"model\.safetensors differs"):
        registry.register(asked)
    with pytest.raises(OperationFailed) as missing:
        registry.aliases(asked.model_name)
    assert missing.value.code == "not_found"


def test_aliases_move_are_read_back_and_go(registry: Registry, home: Path) -> None:
    asked = registration(home)
    registry.register(asked)
    registry.register(replace(asked, build_key="key-2"))
    name = asked.model_name
    registry.set_alias(name, "champion", "1")
    registry.set_alias(name, "challenger", "2")
    registry.set_alias(name, "previous-champion", "1")
    registry.set_alias(name, "champion", "2")
    registry.drop_alias(name, "challenger")
    registry.drop_alias(name, "challenger")
    assert registry.aliases(name) == {"champion": "2", "previous-champion": "1"}


def test_an_alias_that_differs_in_case_is_drift_and_not_overwritten(registry: Registry, home: Path) -> None:
    asked = registration(home)
    registry.register(asked)
    registry.set_alias(asked.model_name, "Champion", "1")
    with pytest.raises(Conflict, match="'Champion'"):
        registry.set_alias(asked.model_name, "champion", "1")
    assert registry.aliases(asked.model_name) == {"Champion": "1"}


@pytest.mark.parametrize("alias", ["latest", "Latest", "v7", "a/b", "", "x" * 256])
def test_names_mlflow_has_no_room_for_are_refused(registry: Registry, home: Path, alias: str) -> None:
    with pytest.raises(UsageError, match="cannot be an alias"):
        registry.set_alias("chat", alias, "1")


def test_what_is_not_there_is_said_to_be_missing(registry: Registry, home: Path) -> None:
    asked = registration(home)
    registry.register(asked)
    for call in (
        lambda: registry.version(asked.model_name, "77"),
        lambda: registry.version("nobody", "1"),
        lambda: registry.set_alias(asked.model_name, "champion", "77"),
        lambda: registry.tag(asked.model_name, "77", {"a": "b"}),
        lambda: registry.aliases("nobody"),
    ):
        with pytest.raises(OperationFailed) as missing:
            call()
        assert missing.value.code == "not_found"


def test_tags_are_set_and_replaced(registry: Registry, home: Path) -> None:
    asked = registration(home)
    registry.register(asked)
    registry.tag(asked.model_name, "1", {"airboss.stage": "Staging", "airboss.approved_by": "user:ann"})
    registry.tag(asked.model_name, "1", {"airboss.stage": "Production"})
    tags = registry.version(asked.model_name, "1").tags
    assert (tags["airboss.stage"], tags["airboss.approved_by"]) == ("Production", "user:ann")


def test_the_run_behind_a_version_has_its_parameters_metrics_and_data(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from mlflow.tracking.client import MlflowClient

    from adapters.mlflow_registry import MlflowRegistry

    directory = _direct_dir(tmp_path_factory)
    asked = registration(home)
    made = MlflowRegistry(mlflow_dir=directory).register(asked)
    uri = f"sqlite:///{directory.resolve()}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run = client.get_run(made.run_id)
    assert run.data.params == {"seed": "1337", "train.steps": "300"}
    assert run.data.metrics == {"heldout_bpc": 2.55}
    assert run.info.status == "FINISHED"
    assert run.inputs is not None
    assert run.outputs is not None
    tags = {tag.key: tag.value for tag in run.inputs.dataset_inputs[0].tags}
    assert tags == {"mlflow.data.context": "training", "sha256": "ab" * 32}
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert model.status == "READY"
    assert made.source == model.artifact_location


def test_a_half_made_version_is_finished_only_if_its_bytes_are_there(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """MLflow calls a version READY whose files were never stored; ours is rejected, and says so."""
    from adapters.mlflow_registry import BUILD_KEY, DIGEST, MlflowRegistry

    registry = MlflowRegistry(mlflow_dir=_direct_dir(tmp_path_factory))
    asked = registration(home)
    kept = home / "kept"
    shutil.copytree(home / "bundle", kept)
    client = registry._client
    client.create_registered_model(asked.model_name)
    client.create_model_version(
        asked.model_name, source=kept.as_uri(), tags={BUILD_KEY: asked.build_key, DIGEST: asked.digest}
    )
    (kept / "config.json").write_text("altered")
    with pytest.raises(OperationFailed, match=r"config\.json .* other bytes"):
        registry.register(asked)
    assert registry.version(asked.model_name, "1").tags["airboss.stage"] == "Rejected"
    shutil.copy(home / "bundle" / "config.json", kept / "config.json")
    assert registry.register(asked).tags["airboss.artifact_sha256"] == asked.digest


@pytest.mark.deep
def test_a_run_that_was_cut_off_is_marked_and_begun_again(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from adapters.mlflow_registry import ABANDONED, BUILD_KEY, MlflowRegistry

    registry = MlflowRegistry(mlflow_dir=_direct_dir(tmp_path_factory))
    asked = registration(home)
    experiment = registry._experiment(asked.model_name)
    lost = registry._client.create_run(experiment, tags={BUILD_KEY: asked.build_key}).info.run_id
    made = registry.register(asked)
    assert made.run_id != lost
    run = registry._client.get_run(lost)
    assert (run.info.status, ABANDONED in run.data.tags) == ("FAILED", True)


@pytest.mark.deep
def test_a_worker_killed_while_it_registers_leaves_one_verified_version(worker: Worker, home: Path) -> None:
    asked = registration(home)
    for delay_s in (0.02, 0.1):
        with RegistryClient(worker.socket) as client:
            call = threading.Thread(target=_try, args=(client, asked))
            call.start()
            time.sleep(delay_s)
            worker.stop(signal.SIGKILL)
            call.join(30)
        with worker.start() as client:
            worker.wait(client)
    with RegistryClient(worker.socket) as client:
        made = client.register(asked)
        assert made.tags["airboss.artifact_sha256"] == asked.digest
        assert client.register(asked).version == made.version
        with pytest.raises(OperationFailed):
            client.version(asked.model_name, str(int(made.version) + 1))


def _try(client: RegistryClient, asked: Registration) -> None:
    with contextlib.suppress(Unreachable):
        client.register(asked)


def test_the_worker_answers_before_mlflow_is_loaded_drains_and_prints_no_noise(home: Path) -> None:
    worker = Worker(home, {"mlflow_dir": str(home / "mlflow")})
    try:
        with worker.start() as client:
            first = worker.wait(client, ready=False)
            assert (first["spawn_id"], first["kind"], first["ready"]) == ("r1", "registry", False)
            assert worker.wait(client)["ready"]
            client.register(registration(home))
        assert worker.stop() == 0
        assert not worker.socket.exists()
        lines = (home / "worker.out").read_text().splitlines()
        assert lines
        assert all(line.startswith('{"at"') for line in lines), lines
        assert (home / "worker.err").read_text() == ""
    finally:
        worker.close()


def test_a_damaged_store_is_said_and_the_worker_stays(home: Path) -> None:
    (home / "mlflow").mkdir()
    (home / "mlflow" / "mlflow.db").write_bytes(b"no database at all" * 100)
    worker = Worker(home, {"mlflow_dir": str(home / "mlflow")})
    try:
        with worker.start() as client:
            answer = worker.wait(client)
            assert not answer["ready"]
            assert "file is not a database" in answer["error"]
            with pytest.raises(OperationFailed) as damaged:
                client.aliases("chat")
            assert damaged.value.code == "registry_damaged"
            (home / "mlflow" / "mlflow.db").unlink()
            with pytest.raises(OperationFailed) as missing:
                client.aliases("chat")
            assert missing.value.code == "not_found"
    finally:
        worker.close()


def test_calls_the_port_does_not_have_are_refused(worker: Worker) -> None:
    with RegistryClient(worker.socket) as client:
        with pytest.raises(UsageError, match="no call 'delete'"):
            client._call("delete", {})
        with pytest.raises(UsageError, match="was given nothing"):
            client._call("aliases", {})


def test_no_worker_is_unreachable_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with RegistryClient(tmp_path / "none.sock") as client, pytest.raises(Unreachable, match="is not there"):
        client.aliases("chat")
    assert time.monotonic() - began < 2


def test_a_worker_that_hangs_is_unreachable_in_time(tmp_path: Path) -> None:
    path = Path(tempfile.mkdtemp(prefix="ab-reg-")) / "s"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with RegistryClient(path, call_timeout_s=0.3) as client, pytest.raises(Unreachable, match=r"within 0\.3 s"):
            client.aliases("chat")
    shutil.rmtree(path.parent)


def test_a_login_page_is_no_registry_and_a_closed_port_is_unreachable() -> None:
    from adapters.mlflow_registry import MlflowRegistry

    with _login_page() as url, pytest.raises(Unreachable, match="does not speak MLflow"):
        MlflowRegistry(url=url)
    with pytest.raises(Unreachable, match="Connection refused"):
        MlflowRegistry(url=url)


@contextlib.contextmanager
def _login_page() -> Iterator[str]:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html>please log in</html>"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_client_and_the_stage_that_registers_import_neither_mlflow_nor_torch() -> None:
    code = "import sys, adapters.registry_client, engine.pipelines.stages.register, engine.pipelines.stages.release; sys.exit(bool({'mlflow', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0
