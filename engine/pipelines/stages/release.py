"""Stage `release`: the registered bundle under its manifest, verified once more. The engine puts it in its place.

Writes `bundle/` with release.json, the manifest: every file's sha256, the digest over them, and the lineage.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Any

from engine.pipelines.stage import StageContext, StageResult
from engine.pipelines.stages.outputs import BUNDLE, EVALUATION, REGISTRATION, TRAINING
from engine.pipelines.stages.prompt_set import prompt_facts
from engine.pipelines.stages.settings import Settings, read_facts, settings_of, write_facts
from engine.serving.bundle import SERVING_NAME, TOKENIZER_NAME, read_bundle
from state.digests import MANIFEST_NAME, bundle_digest, hash_tree
from state.words import OperationFailed


class ReleaseSettings(Settings):
    """The release stage has no parameters: what it releases was decided before."""


def run(ctx: StageContext) -> StageResult:
    """Copy, write the manifest, verify. Raises OperationFailed when a byte differs from what was registered."""
    settings_of(ReleaseSettings, ctx)
    registered = read_facts(ctx.inputs["register"] / REGISTRATION)
    bundle = ctx.out_dir / BUNDLE
    shutil.copytree(ctx.inputs["register"] / BUNDLE, bundle)
    files = hash_tree(bundle)
    digest = bundle_digest(files)
    if digest != registered["digest"]:
        raise OperationFailed(
            f"the bundle has digest {digest[:12]}, but {registered['digest'][:12]} was registered",
            hint="its files changed after they were registered; start the run again with --from register",
            code="bundle_digest",
        )
    training = read_facts(ctx.inputs["train"] / TRAINING)
    evaluation = read_facts(ctx.inputs["evaluate"] / EVALUATION)
    prompt = prompt_facts()
    context = {name: ctx.context.get(name) for name in ("pipeline", "service", "actor", "git_commit", "created_at")}
    release_id = str(ctx.context.get("release_id") or ctx.run_id)
    manifest = {
        "release_id": release_id,
        "service": context["service"],
        "digest": digest,
        "files": [asdict(file) for file in files],
        "lineage": {
            **context,
            "run_id": ctx.run_id,
            "dataset": training["dataset"],
            "prompt": {name: prompt[name] for name in ("id", "sha256")},
            "model": {name: registered[name] for name in ("model_name", "model_version", "mlflow_run_id", "source")},
            "seed": training["seed"],
            "training": {name: value for name, value in training.items() if name != "dataset"},
            "evaluation": evaluation,
        },
    }
    write_facts(bundle / MANIFEST_NAME, manifest)
    read_bundle(bundle, digest)
    ctx.progress(release=release_id, digest=digest)
    facts = {"release": _facts(manifest, read_facts(bundle / SERVING_NAME))}
    if training["weights_from"]:
        facts["dataset"] = training["dataset"]  # the text these weights were trained on, not this run's
    return StageResult(metrics={"bytes": sum(file.size for file in files), "files": len(files)}, facts=facts)


def _facts(manifest: dict[str, Any], serving: dict[str, Any]) -> dict[str, Any]:
    """What is recorded of the release."""
    lineage = manifest["lineage"]
    training, evaluation = lineage["training"], lineage["evaluation"]
    measured = {
        "heldout_bpc": evaluation["heldout_bpc"],
        "accuracy": evaluation.get("accuracy"),
        "baseline_bpc": evaluation["baseline"]["bpc"],
        "bpc_difference": (evaluation["difference"] or {}).get("mean"),
        "train_loss": training["loss"],
        "train_seconds": training["seconds"],
        "steps": training["steps"],
    }
    return {
        "digest": manifest["digest"],
        "files": manifest["files"],
        "tokenizer_sha256": next(file["sha256"] for file in manifest["files"] if file["path"] == TOKENIZER_NAME),
        "context_length": training["architecture"]["block_size"],
        "seed": training["seed"],
        "training": {name: value for name, value in training.items() if name not in ("loss_curve", "marks")},
        "serving": serving,
        "metrics": {name: value for name, value in measured.items() if value is not None},
        "weights_from": training["weights_from"],
    }
