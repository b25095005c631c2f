"""An MLflow registry, read and nothing else: searched on the server, a page at a time; files measured as they are fetched.

Facts of MLflow 3.17 that shape it: `search_model_versions` never fills in aliases (the model has them); an alias that is
not there is an invalid parameter, not a missing resource; no file has a digest of its own.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.catalogue import (
    MOST_MODELS,
    MOST_VERSIONS,
    CatalogueDetails,
    CatalogueFile,
    CatalogueModel,
    CataloguePage,
    CatalogueVersion,
    refuse,
    why_not_servable,
)
from adapters.mlflow_errors import clear_errors
from state.digests import hash_tree
from state.words import OperationFailed, Unreachable

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.tracking.client import MlflowClient

FILES = "airboss.files"
DIGEST = "airboss.artifact_sha256"
MOST_FILES = 10_000
_OPERATORS = ("=", " like ", " ilike ")


class MlflowCatalogue:
    """`adapters.catalogue.Catalogue` on an open MLflow client. Not for several threads at once."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client, self._uri = client, uri

    def models(self, text: str, limit: int, page: str) -> CataloguePage:
        """A page of models by name."""
        with clear_errors("the registry's models cannot be listed"):
            found = self._client.search_registered_models(
                filter_string=_filter(text), max_results=min(limit, MOST_MODELS), order_by=["name ASC"], page_token=page or None
            )  # fmt: skip
            return CataloguePage(models=tuple(_model(one) for one in found), next_page=_token(found.token))

    def versions(self, model: str, text: str, limit: int, page: str) -> CataloguePage:
        """A page of versions, newest first."""
        wanted = [f"name = '{_quoted(model)}'"] if model else []
        wanted += [_filter(text)] if text else []
        with clear_errors(f"the versions of {model or 'the registry'} cannot be listed"):
            order = ["version_number DESC"] if model else ["last_updated_timestamp DESC"]
            found = self._client.search_model_versions(
                filter_string=" and ".join(wanted), max_results=min(limit, MOST_VERSIONS), order_by=order, page_token=page or None
            )  # fmt: skip
            pointed = self._client.get_registered_model(model).aliases if model else {}
            rows = tuple(_version(one, pointed) for one in found)
            return CataloguePage(versions=rows, next_page=_token(found.token))

    def details(self, model: str, version: str) -> CatalogueDetails:
        """One version with its run, its data and its files; what is gone of it is said in `trouble`."""
        with clear_errors(f"{model}/{version} cannot be read"):
            found = self._found(model, version)
            pointed = self._client.get_registered_model(model).aliases
        troubles: list[str] = []
        params: dict[str, str] = {}
        metrics: dict[str, float] = {}
        datasets: list[Mapping[str, str]] = []
        if found.run_id:
            try:
                with clear_errors(f"run {found.run_id}"):
                    run = self._client.get_run(found.run_id)
                params, metrics = dict(run.data.params), dict(run.data.metrics)
                datasets = [_dataset(one) for one in run.inputs.dataset_inputs] if run.inputs else []
            except OperationFailed as error:
                troubles.append(error.message)
        files: list[CatalogueFile] = []
        try:
            with clear_errors(f"the files of {model}/{found.version}"):
                files = list(self._files(found))
        except OperationFailed as error:
            troubles.append(error.message)
        flavours = self._flavours(found, files)
        why_not = why_not_servable([file.path for file in files], flavours)
        return CatalogueDetails(
            version=_version(found, pointed), params=params, metrics=metrics, datasets=datasets, flavours=flavours,
            files=files, digest=str(found.tags.get(DIGEST, "")), refused=why_not, trouble="; ".join(troubles),
        )  # fmt: skip

    def fetch(self, model: str, version: str, into: str) -> CatalogueDetails:
        """Copy a version's files below `into` and hash them there; what the registry knows of them must agree.

        Raises OperationFailed: `refused` for pickles and what cannot be served, `artifact_mismatch` for other bytes.
        """
        from mlflow.artifacts import download_artifacts

        known = self.details(model, version)
        number = known.version.version
        if known.refused:
            raise refuse(model, number, known.refused)
        with clear_errors(f"{model}/{number} cannot be fetched"):
            place = Path(
                download_artifacts(artifact_uri=self._uri_of(known.version), dst_path=into, tracking_uri=self._uri)
            )
        if place != Path(into):
            for one in place.iterdir():  # stores differ in the folder they add
                shutil.move(one, into)
            place.rmdir()
        got = {file.path: file for file in hash_tree(Path(into))}
        for file in known.files:
            mine = got.get(file.path)
            if mine is None or mine.size != file.size or (file.sha256 and mine.sha256 != file.sha256):
                said = "is missing" if mine is None else "came with other bytes than the registry names"
                raise OperationFailed(f"{file.path} of {model}/{number} {said}", code="artifact_mismatch",
                                      hint="look at the registry's artifact store (disk, permissions), then import again")  # fmt: skip
        if extra := sorted(got.keys() - {file.path for file in known.files}):
            raise OperationFailed(f"{model}/{number} came with {extra[0]}, which the registry does not list",
                                  hint="somebody writes to it now; import again", code="artifact_mismatch")  # fmt: skip
        measured = tuple(CatalogueFile(file.path, file.size, file.sha256) for file in got.values())
        return CatalogueDetails(
            known.version, known.params, known.metrics, known.datasets, known.flavours, measured, known.digest
        )

    def _found(self, model: str, version: str) -> MlflowVersion:
        if version.startswith("@"):
            from mlflow.exceptions import MlflowException

            try:
                return self._client.get_model_version_by_alias(model, version[1:])
            except MlflowException as error:
                if "alias" not in str(error).lower():
                    raise
                has = ", ".join(sorted(self._client.get_registered_model(model).aliases)) or "none"
                raise OperationFailed(f"{model} has no alias {version[1:]!r}", code="not_found",
                                      hint=f"it has: {has}; their case counts") from error  # fmt: skip
        return self._client.get_model_version(model, version)

    def _uri_of(self, version: CatalogueVersion) -> str:
        uri = str(self._client.get_model_version_download_uri(version.model, version.version))
        if uri.startswith("models:/m-"):
            return str(self._client.get_logged_model(uri.removeprefix("models:/")).artifact_location)
        return uri

    def _files(self, version: MlflowVersion) -> Iterator[CatalogueFile]:
        """Every file below the version's source, by path."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = self._uri_of(_version(version, {}))
        store = get_artifact_repository(uri, tracking_uri=self._uri)
        digests: Mapping[str, str] = json.loads(version.tags.get(FILES, "{}"))
        waiting, seen = [""], 0
        while waiting:
            for one in store.list_artifacts(waiting.pop() or None):
                if one.is_dir:
                    waiting.append(one.path)
                    continue
                seen += 1
                if seen > MOST_FILES:
                    raise OperationFailed(f"it has more than {MOST_FILES} files", hint="it is no model")
                yield CatalogueFile(one.path, int(one.file_size or 0), digests.get(one.path, ""))

    def _flavours(self, version: MlflowVersion, files: list[CatalogueFile]) -> list[str]:
        """The flavours that its MLmodel names, `python_function` (what all have) last."""
        import yaml
        from mlflow.artifacts import download_artifacts

        named = next((file.path for file in files if file.path == "MLmodel"), None)
        if named is None:
            return []
        try:
            with tempfile.TemporaryDirectory(prefix="airboss-mlmodel-") as place, clear_errors("MLmodel"):
                uri = f"{self._uri_of(_version(version, {}))}/{named}"
                kept = Path(download_artifacts(artifact_uri=uri, dst_path=place, tracking_uri=self._uri))
                said = yaml.safe_load(kept.read_text(encoding="utf-8"))
            return sorted(said["flavors"], key=lambda name: (name == "python_function", name))
        except (Unreachable, OperationFailed, yaml.YAMLError, KeyError, TypeError, ValueError):
            return ["unknown (its MLmodel cannot be read)"]


def _token(given: object) -> str:
    """The next page's token: a server gives text, MLflow on its own database bytes."""
    return given.decode() if isinstance(given, bytes) else str(given or "")


def _filter(text: str) -> str:
    """A filter in MLflow's words as given; anything else is part of a name."""
    if not text:
        return ""
    return text if any(one in text.lower() for one in _OPERATORS) else f"name ILIKE '%{_quoted(text)}%'"


def _quoted(text: str) -> str:
    """MLflow's filters know no escape: a quote cannot be in a name that is looked for, so it matches any one letter."""
    return text.replace("'", "_")


def _model(one: RegisteredModel) -> CatalogueModel:
    newest = max((int(version.version) for version in one.latest_versions or ()), default=0)
    return CatalogueModel(
        name=str(one.name), newest=str(newest or ""), aliases={str(k): str(v) for k, v in one.aliases.items()},
        tags={str(k): str(v) for k, v in one.tags.items()}, description=str(one.description or ""),
        updated_at=(one.last_updated_timestamp or 0) / 1000,
    )  # fmt: skip


def _version(one: MlflowVersion, pointed: Mapping[str, Any]) -> CatalogueVersion:
    number = str(one.version)
    return CatalogueVersion(
        model=str(one.name), version=number, aliases=sorted(k for k, v in pointed.items() if str(v) == number),
        tags={str(k): str(v) for k, v in one.tags.items()}, description=str(one.description or ""),
        run_id=str(one.run_id or ""), source=str(one.source or ""), created_at=(one.creation_timestamp or 0) / 1000,
    )  # fmt: skip


def _dataset(one: Any) -> Mapping[str, str]:
    tags = {tag.key: tag.value for tag in one.tags}
    return {"name": str(one.dataset.name), "digest": str(one.dataset.digest), "sha256": str(tags.get("sha256", "")),
            "context": str(tags.get("mlflow.data.context", "")), "source": str(one.dataset.source)}  # fmt: skip
