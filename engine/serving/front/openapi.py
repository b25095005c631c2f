"""`/openapi.json`, made from the bodies' own classes, and `/docs`, a page that shows it without asking the internet."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from engine.serving.front.endpoints import ENDPOINTS
from engine.serving.front.jobs import JobBody

_REF = "#/components/schemas/{model}"
_READS = (
    ("/", "That it runs"),
    ("/health", "That the process lives: 503 when its engine has died"),
    ("/ready", "Whether requests should be sent here: 503 with the reason if not"),
    ("/metrics", "vLLM's metric names, in Prometheus's text format"),
    ("/v1/models", "The model that is served"),
    ("/v1/models/{name}", "The same by name, or 404"),
)
_ERRORS = {
    "400": "The request is wrong; the message says where",
    "404": "There is no such model",
    "413": "The body is too large",
    "429": "This tenant has too much here; Retry-After says when to ask again",
    "503": "Starting, full, draining or broken; Retry-After says when to ask again",
    "504": "Not done by the deadline",
}


def document_routes() -> list[Route]:
    """The routes."""
    return [Route("/openapi.json", _openapi), Route("/docs", _docs)]


@lru_cache(maxsize=1)
def openapi() -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    bodies: list[type[BaseModel]] = [endpoint.body for endpoint in ENDPOINTS.values()]
    bodies.append(JobBody)
    _, schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=_REF)
    components = schemas["$defs"]
    components["Error"] = _ERROR_SCHEMA
    paths: dict[str, Any] = {
        endpoint.path: {"post": _post(endpoint.summary, endpoint.body, "200", "The answer, whole or as events")}
        for endpoint in ENDPOINTS.values()
    }
    paths["/v1/jobs"] = {
        "post": _post("Ask now, fetch the answer later", JobBody, "202", "The job; Location is where to look"),
        "get": _get("The jobs, without their answers"),
    }
    paths["/v1/jobs/{job_id}"] = {
        "get": _get("A job, with its answer once it is there", "job_id"),
        "delete": _get("Cancel a job", "job_id"),
    }
    for path, summary in _READS:
        paths[path] = {"get": _get(summary, *(["name"] if "{name}" in path else []))}
    return {
        "openapi": "3.1.0",
        "info": {"title": "airboss model server", "version": _version()},
        "paths": paths,
        "components": {"schemas": components},
    }


_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}


def _post(summary: str, body: type[BaseModel], status: str, outcome: str) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model=body.__name__)}
    failure = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            status: {"description": outcome},
            **{code: {"description": text, "content": failure} for code, text in _ERRORS.items()},
        },
    }


def _get(summary: str, *parameters: str) -> dict[str, Any]:
    named = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parameters]
    return {"summary": summary, "parameters": named, "responses": {"200": {"description": summary}}}


def _version() -> str:
    try:
        return version("airboss")
    except PackageNotFoundError:
        return "0"


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi())


async def _docs(request: Request) -> Response:
    return HTMLResponse(Path(__file__).with_name("docs.html").read_text(encoding="utf-8"))
