"""The seven stages of charlm one after another, real text, a real registry worker, a model small enough for a test."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from adapters.local.child import ChildSpec
from adapters.local.spawn import Spawner
from adapters.registry_client import RegistryClient
from engine.pipelines.charlm import STAGES
from engine.pipelines.stage import StageContext, StageResult
from engine.pipelines.stages import register
from engine.serving.loader import load_bundle
from state.digests import bundle_digest, hash_tree
from state.paths import Paths
from state.words import ConfigError, OperationFailed, Unreachable, UsageError

TINY: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "batch": 16, "warmup_steps": 10}
LENIENT = {"max_prompt_failures": 10}
"""A model of a second's training answers badly; that is not what these tests are about."""


@pytest.fixture(scope="module")
def registry_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run = Path(tempfile.mkdtemp(prefix="ab-st-"))  # a socket's path has to be short
    home = tmp_path_factory.mktemp("registry")
    payload = {"mlflow_dir": str(home / "mlflow")}
    child = Spawner(run, home).spawn(
        ChildSpec("reg", "registry", run, str(run / "reg.sock"), "", payload), "adapters.registry_worker"
    )
    try:
        with RegistryClient(run / "reg.sock") as client:
            end = time.monotonic() + 90
            while time.monotonic() < end:
                with contextlib.suppress(Unreachable):
                    if client.handshake()["ready"]:
                        break
                time.sleep(0.05)
        yield str(run / "reg.sock")
    finally:
        asyncio.run(child.terminate(20))
        shutil.rmtree(run)


@dataclass
class Pipeline:
    """Runs stages as the runner would: outputs in a directory each, inputs by need, releases put in their place."""

    root: Path
    socket: str
    results: dict[str, StageResult] = field(default_factory=dict)

    def run(
        self, run_id: str, params: Mapping[str, Mapping[str, Any]], baseline: Mapping[str, Any] | None = None
    ) -> Path:
        for spec in STAGES:
            self.stage(run_id, spec.name, params.get(spec.name, {}), baseline)
        place = Paths.of(self.root).releases / f"charlm-{run_id}"
        shutil.copytree(self.root / run_id / "release" / "bundle", place)
        return place

    def stage(
        self, run_id: str, name: str, params: Mapping[str, Any], baseline: Mapping[str, Any] | None = None
    ) -> StageResult:
        spec = next(spec for spec in STAGES if spec.name == name)
        out = self.root / run_id / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        ctx = StageContext(
            run_id=run_id,
            stage=name,
            params=params,
            inputs={need: self.root / run_id / need for need in spec.needs},
            out_dir=out,
            registry_socket=self.socket if spec.uses_registry else None,
            context={
                "pipeline": "charlm",
                "service": "chat",
                "workspace": str(self.root),
                "release_id": f"charlm-{run_id}",
                "baseline": baseline,
                "actor": "user:ann",
                "created_at": 1.0,
                "git_commit": "0" * 40,
                "build_key": f"{self.root.name}-{run_id}",
            },
        )
        result: StageResult = importlib.import_module(spec.entry.partition(":")[0]).run(ctx)
        self.results[name] = result
        json.dumps(result.to_json(), allow_nan=False)
        assert {gate.name for gate in result.gates} >= set(spec.required_gates)
        return result

    def refused(self) -> list[str]:
        return [gate.name for result in self.results.values() for gate in result.refused_by]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, registry_socket: str) -> Pipeline:
    """A workspace whose first release, `charlm-1`, is made."""
    pipeline = Pipeline(tmp_path_factory.mktemp("workspace"), registry_socket)
    pipeline.run("1", {"train": {**TINY, "steps": 60}, "evaluate": LENIENT, "register": {"serving": {"max_batch": 4}}})
    return pipeline


def baseline_of(pipeline: Pipeline, run_id: str = "1") -> dict[str, Any]:
    place = Paths.of(pipeline.root).releases / f"charlm-{run_id}"
    return {"release_id": f"charlm-{run_id}", "bundle_path": str(place), "metrics": {}}


def test_a_first_release_beats_the_unigram_model_and_can_be_served(first: Pipeline) -> None:
    assert first.refused() == []
    evaluation = first.results["evaluate"]
    assert evaluation.metrics["heldout_bpc"] < evaluation.metrics["baseline_bpc"]
    assert evaluation.facts["evaluation"]["baseline"]["name"] == "unigram"
    place = Paths.of(first.root).releases / "charlm-1"
    facts = first.results["release"].facts["release"]
    loaded = load_bundle(place, facts["digest"])
    assert loaded.serving.max_batch == 4
    assert loaded.config.block_size == facts["context_length"] == 32
    assert facts["digest"] == bundle_digest(hash_tree(place))
    assert sorted(file.name for file in place.iterdir()) == [
        "config.json",
        "model.safetensors",
        "release.json",
        "serving.json",
        "tokenizer.json",
    ]


def test_the_manifest_leads_from_the_bundle_to_everything_it_was_made_of(first: Pipeline) -> None:
    manifest = json.loads((Paths.of(first.root).releases / "charlm-1" / "release.json").read_text())
    lineage = manifest["lineage"]
    dataset = first.results["validate"].facts["dataset"]
    assert lineage["dataset"]["sha256"] == dataset["sha256"]
    assert lineage["dataset"]["snapshot_sha256"] == first.results["snapshot"].facts["snapshot"]["sha256"]
    assert (lineage["run_id"], lineage["seed"], lineage["git_commit"]) == ("1", 1337, "0" * 40)
    assert lineage["model"]["model_version"] == first.results["register"].facts["model"]["version"]
    assert lineage["prompt"]["id"] == first.results["evaluate"].facts["prompt"]["id"]
    assert lineage["training"]["recipe"]["steps"] == 60
    assert lineage["training"]["environment"]["torch"]


def test_the_registry_has_the_same_bytes_under_the_same_digest(first: Pipeline) -> None:
    model = first.results["register"].facts["model"]
    digest = first.results["release"].facts["release"]["digest"]
    with RegistryClient(Path(first.socket)) as registry:
        version = registry.version(model["name"], model["version"])
    assert version.tags["airboss.artifact_sha256"] == digest
    assert version.tags["airboss.release"] == "charlm-1"
    assert version.tags["airboss.git_commit"] == "0" * 40
    assert version.run_id == model["mlflow_run_id"]


def test_a_stage_that_runs_again_registers_nothing_twice(first: Pipeline) -> None:
    before = first.results["register"].facts["model"]
    again = first.stage("1", "register", {"serving": {"max_batch": 4}})
    assert again.facts["model"] == before


@pytest.fixture(scope="module")
def second(first: Pipeline) -> Pipeline:
    """The same workspace with a better release, `charlm-2`."""
    pipeline = Pipeline(first.root, first.socket)
    pipeline.run("2", {"train": {**TINY, "steps": 240}, "evaluate": LENIENT}, baseline_of(first))
    return pipeline


def test_more_steps_make_a_better_release_and_the_interval_says_so(second: Pipeline) -> None:
    assert second.refused() == []
    found = second.results["evaluate"].facts["evaluation"]
    assert found["baseline"]["name"] == "charlm-1"
    assert found["difference"]["high"] < 0
    assert second.results["validate"].facts["dataset"] == json.loads(
        (second.root / "1" / "train" / "training.json").read_text()
    )["dataset"] | {"path": "data"}


def test_a_worse_model_is_refused(second: Pipeline) -> None:
    pipeline = Pipeline(second.root, second.socket)
    shutil.copytree(second.root / "1", second.root / "3")
    pipeline.stage("3", "evaluate", LENIENT, baseline_of(second, "2"))
    assert pipeline.refused() == ["heldout_vs_baseline"]


def test_a_baseline_that_is_gone_or_damaged_refuses_and_says_why(second: Pipeline, tmp_path: Path) -> None:
    pipeline = Pipeline(second.root, second.socket)
    shutil.copytree(second.root / "1", second.root / "4")
    damaged = tmp_path / "charlm-2"
    shutil.copytree(Paths.of(second.root).releases / "charlm-2", damaged)
    (damaged / "model.safetensors").write_bytes(b"x" * (damaged / "model.safetensors").stat().st_size)
    for place, why in ((tmp_path / "none", "cannot be read"), (damaged, "was altered")):
        result = pipeline.stage("4", "evaluate", LENIENT, {"release_id": "charlm-2", "bundle_path": str(place)})
        assert pipeline.refused() == ["heldout_vs_baseline"]
        assert why in result.facts["evaluation"]["baseline"]["trouble"]


def test_weights_of_a_release_can_be_released_with_another_serving_configuration(second: Pipeline) -> None:
    pipeline = Pipeline(second.root, second.socket)
    fault = {"fault": {"latency_ms": 400.0, "error_rate": 0.3, "seed": 7}}
    params: dict[str, dict[str, Any]] = {
        "train": {"weights_from": "charlm-2"},
        "evaluate": LENIENT,
        "register": {"serving": fault},
    }
    place = pipeline.run("5", params, baseline_of(second, "2"))
    assert pipeline.refused() == []
    one, two = Paths.of(second.root).releases / "charlm-2", place
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    facts = pipeline.results["release"].facts
    assert facts["release"]["weights_from"]["release_id"] == "charlm-2"
    assert facts["release"]["serving"] == fault
    assert facts["release"]["digest"] != second.results["release"].facts["release"]["digest"]
    assert facts["dataset"]["sha256"] == second.results["validate"].facts["dataset"]["sha256"]
    version = pipeline.results["register"].facts["model"]["version"]
    assert version != second.results["register"].facts["model"]["version"]
    loaded = load_bundle(place, facts["release"]["digest"])
    assert loaded.serving.fault is not None
    assert loaded.serving.fault.latency_ms == 400.0


def test_a_serving_configuration_no_server_would_take_is_refused_before_registering(second: Pipeline) -> None:
    shutil.copytree(second.root / "1", second.root / "6")
    pipeline = Pipeline(second.root, second.socket)
    with pytest.raises(ConfigError, match="max_batch"):
        pipeline.stage("6", "register", {"serving": {"max_batch": 0}})
    with pytest.raises(UsageError, match="no registry"):
        register.run(StageContext("6", "register", {}, {}, second.root, None, {}))


def test_a_bundle_that_changed_after_it_was_registered_is_not_released(second: Pipeline) -> None:
    shutil.copytree(second.root / "1", second.root / "7")
    pipeline = Pipeline(second.root, second.socket)
    path = second.root / "7" / "register" / "bundle" / "config.json"
    path.write_text(path.read_text().replace('"n_head": 2', '"n_head": 4'))
    with pytest.raises(OperationFailed, match="was registered"):
        pipeline.stage("7", "release", {})


def test_a_damaged_release_lends_nobody_its_weights(second: Pipeline) -> None:
    place = Paths.of(second.root).releases / "charlm-9"
    shutil.copytree(Paths.of(second.root).releases / "charlm-1", place)
    (place / "tokenizer.json").write_text('{"type": "char", "chars": ["a"]}')
    shutil.copytree(second.root / "1", second.root / "8")
    pipeline = Pipeline(second.root, second.socket)
    with pytest.raises(OperationFailed, match="tokenizer"):
        pipeline.stage("8", "train", {"weights_from": "charlm-9"})


def test_with_the_registry_gone_registering_is_unreachable_and_can_be_retried(second: Pipeline, tmp_path: Path) -> None:
    shutil.copytree(second.root / "1", second.root / "10")
    away = Pipeline(second.root, str(tmp_path / "none.sock"))
    with pytest.raises(Unreachable) as error:
        away.stage("10", "register", {})
    assert error.value.retryable
    assert Pipeline(second.root, second.socket).stage("10", "register", {}).facts["model"]["version"]
