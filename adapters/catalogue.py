"""What an existing registry holds, as values: its models, their versions, and all there is to know of one. Imports no mlflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from state.words import OperationFailed

MOST_MODELS = 1000
MOST_VERSIONS = 5000
PICKLES = frozenset({".pkl", ".pickle", ".pickled", ".joblib", ".cloudpickle", ".dill", ".pt", ".pth", ".ckpt", ".bin"})
"""Formats whose reading may run code. (`.bin` is PyTorch's pickle in every flavour that writes one.)"""


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model. `newest` is the highest version's number; times are Unix seconds."""

    name: str
    newest: str
    aliases: Mapping[str, str]
    tags: Mapping[str, str]
    description: str
    updated_at: float


@dataclass(frozen=True, slots=True)
class CatalogueVersion:
    """A version. `aliases` are those that point at it, where they were asked for."""

    model: str
    version: str
    aliases: Sequence[str]
    tags: Mapping[str, str]
    description: str
    run_id: str
    source: str
    created_at: float


@dataclass(frozen=True, slots=True)
class CatalogueFile:
    """A file of a version; `sha256` is "" where nobody wrote it down: MLflow itself keeps none."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CatalogueDetails:
    """All of one version. `digest` is the bundle's, where Airboss registered it; `refused` says why it is not taken in."""

    version: CatalogueVersion
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    datasets: Sequence[Mapping[str, str]]
    flavours: Sequence[str]
    files: Sequence[CatalogueFile]
    digest: str = ""
    refused: str = ""
    trouble: str = ""
    """What could not be read of it: a run that was deleted, files that are gone."""


@dataclass(frozen=True, slots=True)
class CataloguePage:
    """A page of models or of versions, and the token of the next one ("" after the last)."""

    models: Sequence[CatalogueModel] = ()
    versions: Sequence[CatalogueVersion] = ()
    next_page: str = ""


class Catalogue(Protocol):
    """Reads a registry; changes nothing there. All calls block. Each raises Unreachable, OperationFailed."""

    def models(self, text: str, limit: int, page: str) -> CataloguePage:
        """Models by name, those that `text` finds: part of a name, or a filter in the registry's own words."""

    def versions(self, model: str, text: str, limit: int, page: str) -> CataloguePage:
        """Versions, newest first, of one model (with their aliases) or, with "", of all."""

    def details(self, model: str, version: str) -> CatalogueDetails:
        """One version, by number or `@alias`."""

    def fetch(self, model: str, version: str, into: str) -> CatalogueDetails:
        """Its files, below the empty directory `into`, each measured. Raises OperationFailed (`refused`) for pickles."""


def why_not_servable(files: Sequence[str], flavours: Sequence[str]) -> str:
    """Why a version cannot be served here, from the names of its files, before a byte is fetched; "" when it can. Pure."""
    pickles = [name for name in files if PurePosixPath(name).suffix.lower() in PICKLES]
    kind = ", ".join(flavours) or "of no flavour"
    if pickles:
        more = f" and {len(pickles) - 1} more" if len(pickles) > 1 else ""
        return f"it is {kind} and holds {pickles[0]}{more}: a pickle runs code when it is read"
    if not files:
        return "it has no files: what its source names is empty or gone"
    if not any(name.endswith((".safetensors", ".gguf")) for name in files):
        return f"it is {kind} and has no weights that can be served here (.safetensors, .gguf)"
    return ""


def refuse(model: str, version: str, why: str) -> OperationFailed:
    """The refusal of a version that cannot become a release."""
    return OperationFailed(
        f"{model}/{version} cannot be imported: {why}",
        hint="register it with safetensors or GGUF weights (transformers: save_pretrained writes safetensors)",
        code="refused",
    )


def page_from_wire(body: Mapping[str, Any]) -> CataloguePage:
    """The page in a worker's answer."""
    models = tuple(CatalogueModel(**one) for one in body["models"])
    return CataloguePage(models, tuple(CatalogueVersion(**one) for one in body["versions"]), body["next_page"])


def details_from_wire(body: Mapping[str, Any]) -> CatalogueDetails:
    """The details in a worker's answer."""
    files = tuple(CatalogueFile(**one) for one in body["files"])
    return CatalogueDetails(**{**body, "version": CatalogueVersion(**body["version"]), "files": files})
