"""The registry as the engine and the stages see it: calls to the registry worker over its Unix socket. Imports no mlflow.

The wire form of the port's values is here too; the worker reads and writes it with the same functions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from adapters.catalogue import CatalogueDetails, CataloguePage, details_from_wire, page_from_wire
from adapters.ports import ModelFile, ModelVersion, Registration
from state.words import Unreachable, error_from_dict

CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 30.0
REGISTER_TIMEOUT_S = 300.0
"""Copying, downloading and hashing a model takes as long as its bytes take."""
FETCH_TIMEOUT_S = 1800.0
"""Tens of gigabytes from another building."""
CALL_PATH = "/call"
HANDSHAKE_PATH = "/admin/handshake"


class RegistryClient:
    """`adapters.ports.Registry` over a worker's socket. Safe to use from several threads; close it, or use `with`.

    Every call raises Unreachable when the worker is not there or does not answer in time, and what the worker's own
    registry raised otherwise.
    """

    def __init__(
        self, socket: Path, *, call_timeout_s: float = CALL_TIMEOUT_S, register_timeout_s: float = REGISTER_TIMEOUT_S
    ) -> None:
        self._socket = socket
        self._call_timeout_s = call_timeout_s
        self._register_timeout_s = register_timeout_s
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://registry", trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def handshake(self) -> dict[str, Any]:
        """Who the worker is, whether MLflow is open (`ready`) and, if it cannot be opened, why (`error`)."""
        body: dict[str, Any] = self._ask("GET", HANDSHAKE_PATH, None, CONNECT_TIMEOUT_S)
        return body

    def register(self, registration: Registration) -> ModelVersion:
        """Make, or find by build key, the version."""
        return version_from_wire(self._call("register", registration_to_wire(registration), self._register_timeout_s))

    def aliases(self, model_name: str) -> Mapping[str, str]:
        """alias → version, as the registry has it now."""
        found: dict[str, str] = self._call("aliases", {"model_name": model_name})
        return found

    def set_alias(self, model_name: str, alias: str, version: str) -> None:
        """Point `alias` at `version`. Raises Conflict when it reads back otherwise."""
        self._call("set_alias", {"model_name": model_name, "alias": alias, "version": version})

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Remove `alias`; nothing happens when there is none."""
        self._call("drop_alias", {"model_name": model_name, "alias": alias})

    def tag(self, model_name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""
        self._call("tag", {"model_name": model_name, "version": version, "tags": dict(tags)})

    def version(self, model_name: str, version: str) -> ModelVersion:
        """The version with its tags."""
        return version_from_wire(self._call("version", {"model_name": model_name, "version": version}))

    def models(self, text: str, limit: int, page: str) -> CataloguePage:
        """A page of models by name."""
        return page_from_wire(self._call("models", {"text": text, "limit": limit, "page": page}))

    def versions(self, model: str, text: str, limit: int, page: str) -> CataloguePage:
        """A page of versions, newest first."""
        args = {"model": model, "text": text, "limit": limit, "page": page}
        return page_from_wire(self._call("versions", args))

    def details(self, model: str, version: str) -> CatalogueDetails:
        """All of one version."""
        return details_from_wire(self._call("details", {"model": model, "version": version}))

    def fetch(self, model: str, version: str, into: str) -> CatalogueDetails:
        """Its files, below `into`, measured."""
        args = {"model": model, "version": version, "into": into}
        return details_from_wire(self._call("fetch", args, FETCH_TIMEOUT_S))

    def _call(self, method: str, args: Mapping[str, Any], timeout_s: float | None = None) -> Any:
        body = {"method": method, "args": dict(args)}
        return self._ask("POST", CALL_PATH, body, timeout_s or self._call_timeout_s).get("result")

    def _ask(self, verb: str, path: str, body: object, timeout_s: float) -> dict[str, Any]:
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            answer = self._http.request(verb, path, json=body, timeout=timeout)
            value = answer.json()
        except httpx.TimeoutException as error:
            raise Unreachable(
                f"the registry worker did not answer within {timeout_s:g} s", hint="see the registry worker's log"
            ) from error
        except httpx.TransportError as error:
            raise Unreachable(
                f"the registry worker at {self._socket} is not there: {error}", hint="`airboss status` shows what runs"
            ) from error
        except json.JSONDecodeError as error:
            raise Unreachable(f"something else than the registry worker answers at {self._socket}") from error
        if isinstance(value, dict) and "error" in value and answer.is_error:
            raise error_from_dict(value["error"])
        if not isinstance(value, dict) or answer.is_error:
            raise Unreachable(f"the registry worker answered {answer.status_code} to {path}")
        return value


def registration_to_wire(registration: Registration) -> dict[str, Any]:
    """A Registration as JSON; paths are the same file system's on both sides."""
    body = asdict(registration)
    body.update(
        bundle_path=str(registration.bundle_path),
        dataset_path=str(registration.dataset_path),
        files=[asdict(file) for file in registration.files],
    )
    for name in ("params", "metrics", "tags"):
        body[name] = dict(body[name])
    return body


def registration_from_wire(body: Mapping[str, Any]) -> Registration:
    """The Registration that `registration_to_wire` wrote. Raises KeyError or TypeError when it is none."""
    given = dict(body)
    given["files"] = tuple(ModelFile(**file) for file in given["files"])
    given["bundle_path"] = Path(given["bundle_path"])
    given["dataset_path"] = Path(given["dataset_path"])
    return Registration(**given)


def version_from_wire(body: Mapping[str, Any]) -> ModelVersion:
    """The ModelVersion in a worker's answer (written with `dataclasses.asdict`)."""
    return ModelVersion(**body)
