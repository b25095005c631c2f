"""Stage `register`: put the model together as it will be served, and make it a version in the registry.

Writes `bundle/` (the model's files and serving.json) and `registration.json`. The build key makes it idempotent: when
the stage runs again after it was killed, the version that is already there is found and verified, not made twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from adapters.ports import ModelFile, Registration
from adapters.registry_client import RegistryClient
from engine.pipelines.stage import StageContext, StageResult
from engine.pipelines.stages import validate
from engine.pipelines.stages.outputs import BUNDLE, EVALUATION, MODEL, REGISTRATION, TRAINING
from engine.pipelines.stages.prompt_set import prompt_facts
from engine.pipelines.stages.settings import Settings, read_facts, settings_of, write_facts
from engine.serving.bundle import SERVING_NAME
from engine.serving.settings import serving_settings
from state.digests import bundle_digest, canonical_json, hash_tree, text_sha256
from state.paths import Paths
from state.words import Lifecycle, UsageError


class RegisterSettings(Settings):
    """`serving`: the release's serving.json; see `engine/serving/settings.py` for its fields."""

    serving: dict[str, JsonValue] = Field(default_factory=dict)


def run(ctx: StageContext) -> StageResult:
    """Assemble, register, and write down which version it became."""
    settings = settings_of(RegisterSettings, ctx)
    if ctx.registry_socket is None:
        raise UsageError("the stage register was given no registry", hint="the pipeline's spec must say uses_registry")
    serving_settings(settings.serving, {})  # a configuration that no model server would take is refused here
    bundle = ctx.out_dir / BUNDLE
    shutil.copytree(ctx.inputs["train"] / MODEL, bundle)
    write_facts(bundle / SERVING_NAME, settings.serving)
    registration = registration_of(ctx, bundle)
    ctx.progress(registering=registration.model_name, digest=registration.digest)
    with RegistryClient(Path(ctx.registry_socket)) as registry:
        version = registry.register(registration)
    facts = {
        "name": version.model_name,
        "version": version.version,
        "model_name": version.model_name,
        "model_version": version.version,
        "mlflow_run_id": version.run_id,
        "source": version.source,
    }
    write_facts(
        ctx.out_dir / REGISTRATION, {**facts, "digest": registration.digest, "build_key": registration.build_key}
    )
    ctx.progress(registered=f"{version.model_name}/{version.version}")
    return StageResult(metrics={"files": len(registration.files)}, facts={"model": facts})


def registration_of(ctx: StageContext, bundle: Path) -> Registration:
    """All the registry is to remember of the model in `bundle`."""
    files = hash_tree(bundle)
    digest = bundle_digest(files)
    training = read_facts(ctx.inputs["train"] / TRAINING)
    evaluation = read_facts(ctx.inputs["evaluate"] / EVALUATION)
    dataset, prompt = training["dataset"], prompt_facts()
    context = {
        name: str(ctx.context.get(name) or "") for name in ("pipeline", "service", "release_id", "actor", "git_commit")
    }
    fallback = text_sha256(canonical_json([context["release_id"] or ctx.run_id, digest]))
    tags = {
        "airboss.stage": Lifecycle.DEVELOPMENT.value,
        "airboss.pipeline": context["pipeline"],
        "airboss.service": context["service"],
        "airboss.run": ctx.run_id,
        "airboss.release": context["release_id"],
        "airboss.created_by": context["actor"],
        "airboss.git_commit": context["git_commit"],
        "airboss.prompt": str(prompt["id"]),
        "airboss.snapshot_sha256": str(dataset["snapshot_sha256"]),
        "airboss.weights_from": str((training["weights_from"] or {}).get("release_id", "")),
    }
    return Registration(
        model_name=context["service"] or context["pipeline"] or "charlm",
        build_key=str(ctx.context.get("build_key") or fallback),
        bundle_path=bundle,
        files=tuple(ModelFile(file.path, file.sha256, file.size) for file in files),
        digest=digest,
        params=_params(training),
        metrics=_metrics(training, evaluation),
        dataset_name=str(dataset["name"]),
        dataset_sha256=str(dataset["sha256"]),
        dataset_path=_dataset_path(ctx, training),
        tags={name: value for name, value in tags.items() if value},
        prompt_name=str(prompt["name"]),
        prompt_text=canonical_json(prompt["body"]),
        prompt_sha256=str(prompt["sha256"]),
    )


def _dataset_path(ctx: StageContext, training: Mapping[str, Any]) -> Path:
    """Where the training text is: this run's, or for weights taken over the release whose manifest leads to it."""
    if copied := training["weights_from"]:
        return Paths.of(Path(str(ctx.context.get("workspace") or "."))).releases / str(copied["release_id"])
    return ctx.inputs["validate"] / validate.DATA


def _params(training: Mapping[str, Any]) -> dict[str, str]:
    """Everything that would be needed to train it again."""
    flat = {
        **{name: training[name] for name in ("seed", "threads", "device", "dtype", "parameters")},
        **{f"model.{name}": value for name, value in training["architecture"].items()},
        **{
            f"train.{name}": value for name, value in training["recipe"].items() if name not in training["architecture"]
        },
        **{f"env.{name}": value for name, value in training["environment"].items()},
    }
    return {name: str(value) for name, value in flat.items()}


def _metrics(training: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that were measured; one that is missing stays out."""
    difference = evaluation.get("difference") or {}
    measured = {
        "train_loss": training["loss"],
        "train_seconds": training["seconds"],
        "tokens_per_s": training["tokens_per_s"],
        "heldout_bpc": evaluation["heldout_bpc"],
        "baseline_bpc": evaluation["baseline"]["bpc"],
        "bpc_difference": difference.get("mean"),
    }
    return {name: float(value) for name, value in measured.items() if value is not None}
