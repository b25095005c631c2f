"""Taking over the weights of an earlier release: the same model, released again with another serving configuration."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from engine.pipelines.stages.outputs import MODEL, TRAINING
from engine.pipelines.stages.settings import read_facts, write_facts
from engine.serving.bundle import REQUIRED, read_bundle
from state.digests import MANIFEST_NAME
from state.paths import Paths
from state.words import OperationFailed, UsageError


def copy_release(release_id: str, workspace: Path, out_dir: Path) -> dict[str, Any]:
    """Copy the model of `release_id`, verified against its manifest, to `out_dir/model`; returns how it was trained.

    Raises UsageError when the workspace has no such release, OperationFailed when its bundle is damaged.
    """
    place = Paths.of(workspace).releases / release_id
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", release_id) or not place.is_dir():
        raise UsageError(
            f"there is no release {release_id!r} to take the weights from",
            hint="`airboss release list` shows the releases",
            code="no_such_release",
        )
    bundle = read_bundle(place, None)
    (out_dir / MODEL).mkdir(parents=True)
    for name in REQUIRED:
        shutil.copyfile(place / name, out_dir / MODEL / name)
    try:
        lineage = json.loads((place / MANIFEST_NAME).read_text(encoding="utf-8"))["lineage"]
        training = {
            **lineage["training"],
            "dataset": lineage["dataset"],
            "weights_from": {"release_id": release_id, "digest": bundle.digest},
        }
    except (KeyError, TypeError) as error:
        raise OperationFailed(
            f"the manifest of {release_id} does not say how its model was trained",
            hint="take the weights of a release that this pipeline made",
        ) from error
    write_facts(out_dir / TRAINING, training)
    return read_facts(out_dir / TRAINING)
