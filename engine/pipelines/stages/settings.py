"""A stage's parameters, from the run's JSON to a typed value, or a sentence saying which one is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.pipelines.stage import StageContext
from state.words import OperationFailed, UsageError


class Settings(BaseModel):
    """The parameters of one stage. A field that no stage knows is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Settings)


def settings_of(kind: type[S], ctx: StageContext) -> S:
    """The stage's parameters as `kind`. Raises UsageError naming the first field that cannot be meant."""
    try:
        return kind.model_validate(dict(ctx.params))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "parameters"
        what = "is not a parameter of this stage" if first["type"] == "extra_forbidden" else first["msg"]
        raise UsageError(
            f"{ctx.stage}.{field}: {what}",
            hint=f"the stage {ctx.stage} takes {', '.join(kind.model_fields) or 'no parameters'}",
            code="bad_parameter",
        ) from error


def write_facts(path: Path, value: Mapping[str, Any]) -> None:
    """Write a stage's own JSON output, the same bytes for the same value, so that digests compare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def read_facts(path: Path) -> dict[str, Any]:
    """A JSON file that an earlier stage wrote. Raises OperationFailed when it is missing or no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OperationFailed(f"{path} cannot be read: {error}", hint="run the stage that makes it again") from error
    if not isinstance(value, dict):
        raise OperationFailed(f"{path} must hold a JSON object", hint="run the stage that makes it again")
    return value
