"""The model registry in MLflow: embedded on SQLite, or a tracking server.

What MLflow does not promise is added here: a version counts once its files were downloaded again and every sha256
matched (MLflow says READY of a source that does not exist); registering is idempotent by build key; an alias is read
back after it was set (MLflow's is a blind write). Stages (`transition_model_version_stage`) are deprecated and not
used: the tag `airboss.stage` and aliases take their place. Tags and where they come from: `engine/pipelines/stages`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.mlflow_access import TIMEOUT_S, prepare
from adapters.mlflow_catalogue import MlflowCatalogue
from adapters.mlflow_errors import check_database, clear_errors, is_missing
from adapters.mlflow_prompts import BUILD_KEY, drop_followed, follow_alias, keep_prompt
from adapters.ports import ModelVersion, Registration
from state.digests import FileDigest, bundle_digest, canonical_json, hash_tree, text_sha256
from state.server_config import Credentials
from state.words import Conflict, OperationFailed, UsageError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.tracking.client import MlflowClient

DIGEST = "airboss.digest"
FILES = "airboss.files"
VERIFIED = "airboss.artifact_sha256"
"""Set last, to the bundle's digest, once every file was read back: a version without it is half made."""
STAGE = "airboss.stage"
REJECT_REASON = "airboss.reject_reason"
ABANDONED = "airboss.abandoned"
TRAINING = "training"
READY_TIMEOUT_S = 60
_ALIAS = re.compile(r"(?!latest\Z)(?!v\d+\Z)[A-Za-z0-9_-]{1,255}", re.IGNORECASE)


class MlflowRegistry:
    """`adapters.ports.Registry` on MLflow. Not for several threads at once; the registry worker takes turns.

    Give `mlflow_dir` for an embedded registry (a SQLite file and an artifacts folder in it), or `url` for a server's.
    Nothing global is set but MLflow's environment variables (`adapters.mlflow_access`): one server a process.
    Opening creates or migrates the embedded store. Raises Unreachable or OperationFailed.
    """

    def __init__(
        self,
        *,
        mlflow_dir: Path | None = None,
        url: str | None = None,
        credentials: Credentials | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if (mlflow_dir is None) == (url is None):
            raise UsageError("a registry is either embedded (mlflow_dir) or a server (url)")
        self._certificate = prepare(credentials, timeout_s)
        self._artifacts: Path | None = None
        if mlflow_dir is not None:
            mlflow_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            database = mlflow_dir.resolve() / "mlflow.db"
            check_database(database)
            self._artifacts = database.with_name("artifacts")
            self._uri = f"sqlite:///{database}"
        else:
            self._uri = str(url)
        from mlflow.tracking.client import MlflowClient

        with clear_errors(f"the registry at {self._uri} cannot be opened"):
            self._client: MlflowClient = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            self._client.search_registered_models(max_results=1)
        self.catalogue = MlflowCatalogue(self._client, self._uri)

    def register(self, registration: Registration) -> ModelVersion:
        """Make the version, or find it by its build key and finish what an earlier call did not.

        Raises Conflict when the build key belongs to other bytes, OperationFailed when what MLflow keeps is not what
        was given; such a version is tagged Rejected.
        """
        _check_bundle(registration)
        with clear_errors(f"{registration.model_name} cannot be registered"):
            self._ensure_model(registration.model_name)
            found = self._by_build_key(registration) or self._create(registration)
            if found.tags.get(DIGEST) != registration.digest:
                raise Conflict(
                    f"version {found.version} of {registration.model_name} has this build's key but other bytes",
                    hint="start the run again, so that it gets a key of its own",
                )
            if found.tags.get(VERIFIED) != registration.digest:
                keep_prompt(self._client, found, registration)
                self._verify(found, registration)
            return self.version(registration.model_name, str(found.version))

    def aliases(self, model_name: str) -> Mapping[str, str]:
        """alias → version, as the registry has it now. Raises OperationFailed (`not_found`) without such a model."""
        with clear_errors(f"the aliases of {model_name} cannot be read"):
            found = self._client.get_registered_model(model_name).aliases
            return {str(alias): str(version) for alias, version in found.items()}

    def set_alias(self, model_name: str, alias: str, version: str) -> None:
        """Point `alias` at `version` and read it back; its prompt's alias of that name goes along.

        Raises UsageError for a name MLflow has no room for, OperationFailed (`not_found`) for no such version, and
        Conflict when it reads back otherwise or when an alias differs from this one only in case.
        """
        if not _ALIAS.fullmatch(alias):
            raise UsageError(
                f"{alias!r} cannot be an alias", hint="use letters, digits, '_' and '-'; not 'latest', nor v1, v2, …"
            )
        twins = [name for name in self.aliases(model_name) if name != alias and name.lower() == alias.lower()]
        if twins:
            raise Conflict(
                f"{model_name} has an alias {twins[0]!r} beside {alias!r}: somebody set it by hand",
                hint=f"see what reads {twins[0]!r}, then remove it; aliases differ by case",
            )
        with clear_errors(f"alias {alias} of {model_name} cannot be set to version {version}"):
            self._client.set_registered_model_alias(model_name, alias, version)
        now = self.aliases(model_name).get(alias)
        if now != version:
            raise Conflict(
                f"alias {alias} of {model_name} was set to version {version} and reads {now or 'nothing'}",
                hint="somebody else moves it; look at the registry before going on",
            )
        follow_alias(self._client, model_name, alias, version)

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Remove `alias`; nothing happens when there is none."""
        with clear_errors(f"alias {alias} of {model_name} cannot be removed"):
            drop_followed(self._client, model_name, alias, self.aliases(model_name).get(alias, ""))
            self._client.delete_registered_model_alias(model_name, alias)

    def tag(self, model_name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version. Raises OperationFailed (`not_found`) without such a version."""
        with clear_errors(f"version {version} of {model_name} cannot be tagged"):
            for name, value in sorted(tags.items()):
                self._client.set_model_version_tag(model_name, version, name, value)

    def version(self, model_name: str, version: str) -> ModelVersion:
        """The version with its tags. Raises OperationFailed (`not_found`) without such a version."""
        with clear_errors(f"version {version} of {model_name} cannot be read"):
            return _value(self._client.get_model_version(model_name, version))

    def close(self) -> None:
        """Let the certificate go; MLflow keeps its connections, one pool a store, for the life of the process."""
        if self._certificate is not None:
            os.close(self._certificate)
            self._certificate = None

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(name)
        except MlflowException as error:
            if not is_missing(error):
                raise
            self._client.create_registered_model(name)

    def _by_build_key(self, registration: Registration) -> MlflowVersion | None:
        """The oldest version with this build key."""
        wanted = f"name = '{registration.model_name}' and tags.`{BUILD_KEY}` = '{registration.build_key}'"
        found = self._client.search_model_versions(wanted)
        return min(found, key=lambda version: int(version.version)) if found else None

    def _create(self, registration: Registration) -> MlflowVersion:
        """Experiment, run, data set, logged model with the files, version; in this order, so that a version is whole."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Param

        experiment = self._experiment(registration.model_name)
        self._abandon(experiment, registration.build_key)
        run = self._client.create_run(
            experiment,
            run_name=f"{registration.model_name} {registration.build_key[:12]}",
            tags=_run_tags(registration),
        )
        run_id = run.info.run_id
        self._client.log_inputs(run_id, [_dataset_input(registration)])
        model = self._client.create_logged_model(
            experiment,
            name=registration.model_name,
            source_run_id=run_id,
            tags={BUILD_KEY: registration.build_key, DIGEST: registration.digest},
            params=dict(registration.params),
        )
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, 0, model_id=model.model_id, run_id=run_id)
            for name, value in sorted(registration.metrics.items())
        ]
        self._client.log_batch(run_id, metrics, [Param(k, str(v)) for k, v in sorted(registration.params.items())])
        self._client.log_model_artifacts(model.model_id, str(registration.bundle_path))
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self._client.log_outputs(run_id, models=[LoggedModelOutput(model.model_id, 0)])
        version = self._client.create_model_version(
            registration.model_name,
            source=model.artifact_location,
            run_id=run_id,
            tags=_version_tags(registration),
            await_creation_for=READY_TIMEOUT_S,
            model_id=model.model_id,
        )
        self._client.set_terminated(run_id, "FINISHED")
        return version

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        location = (self._artifacts / text_sha256(name)[:12]).as_uri() if self._artifacts else None
        return str(self._client.create_experiment(name, artifact_location=location))

    def _abandon(self, experiment: str, build_key: str) -> None:
        """Runs of this build without a version were cut off; they stay, marked, and a new one is begun."""
        for run in self._client.search_runs([experiment], f"tags.`{BUILD_KEY}` = '{build_key}'"):
            if ABANDONED not in run.data.tags:
                self._client.set_tag(run.info.run_id, ABANDONED, "cut off before its version was made")
                self._client.set_terminated(run.info.run_id, "FAILED")

    def _verify(self, version: MlflowVersion, registration: Registration) -> None:
        """Download what MLflow keeps and compare every file; only then the version counts."""
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory(prefix="airboss-verify-") as place:
            download_artifacts(artifact_uri=str(version.source), dst_path=place, tracking_uri=self._uri)
            kept = {file.path: file for file in _tree_with(Path(place), registration)}
        wanted = [FileDigest(file.path, file.sha256, file.size) for file in registration.files]
        if wrong := [file.path for file in wanted if kept.get(file.path) != file]:
            reason = f"{wrong[0]} as MLflow keeps it is missing or has other bytes"
            self.tag(registration.model_name, str(version.version), {STAGE: "Rejected", REJECT_REASON: reason})
            raise OperationFailed(
                f"version {version.version} of {registration.model_name}: {reason}",
                hint="look at the artifact store (disk, permissions), then start the run again",
                code="artifact_mismatch",
            )
        self.tag(registration.model_name, str(version.version), {VERIFIED: registration.digest})


def _check_bundle(registration: Registration) -> None:
    """The bundle must be what the registration says before anything is written about it."""
    kept = {file.path: file for file in hash_tree(registration.bundle_path)}
    wanted = [FileDigest(file.path, file.sha256, file.size) for file in registration.files]
    wrong = [file.path for file in wanted if kept.get(file.path) != file]
    if wrong or len(kept) != len(wanted) or bundle_digest(wanted) != registration.digest:
        named = wrong[0] if wrong else "the list of files"
        raise OperationFailed(
            f"the bundle {registration.bundle_path} is not what is to be registered: {named} differs",
            hint="start the run again",
            code="bundle_digest",
        )


def _tree_with(root: Path, registration: Registration) -> tuple[FileDigest, ...]:
    """The downloaded files, relative to where the bundle's first file is: stores differ in the folder they add."""
    first = registration.files[0].path
    place = next((path for path in sorted(root.rglob(Path(first).name)) if path.as_posix().endswith(first)), None)
    return hash_tree(Path(str(place).removesuffix(first))) if place else ()


def _dataset_input(registration: Registration) -> Any:
    """The data set as MLflow's input. Its own digest field covers little (36 characters), so the sha256 is a tag too."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=registration.dataset_name,
        digest=registration.dataset_sha256[:36],
        source_type="local",
        source=json.dumps({"uri": str(registration.dataset_path)}),
    )
    tags = [InputTag("mlflow.data.context", TRAINING), InputTag("sha256", registration.dataset_sha256)]
    return DatasetInput(dataset, tags=tags)


def _run_tags(registration: Registration) -> dict[str, str]:
    return {**_common_tags(registration), "mlflow.source.type": "JOB", "mlflow.source.name": "airboss"}


def _version_tags(registration: Registration) -> dict[str, str]:
    files = canonical_json({file.path: file.sha256 for file in registration.files})
    return {**_common_tags(registration), FILES: files, "airboss.dataset_sha256": registration.dataset_sha256}


def _common_tags(registration: Registration) -> dict[str, str]:
    own = {BUILD_KEY: registration.build_key, DIGEST: registration.digest}
    return {STAGE: "Development", **dict(registration.tags), **own}


def _value(version: MlflowVersion) -> ModelVersion:
    return ModelVersion(
        model_name=str(version.name),
        version=str(version.version),
        run_id=str(version.run_id or ""),
        source=str(version.source or ""),
        tags={str(name): str(value) for name, value in version.tags.items()},
    )
