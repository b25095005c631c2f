"""The schema of airboss.toml as text: table, fields, types, defaults, straight from the pydantic models."""

from __future__ import annotations

import types
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from console.commands.format import span
from state.config_types import parse_duration


def describe(model: type[BaseModel]) -> str:
    """Every table below `model` with its fields."""
    return "\n\n".join(_tables(model, ""))


def _tables(model: type[BaseModel], path: str) -> Iterator[str]:
    own, below = [], []
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is None:
            own.append((name, _type(field.annotation, field.metadata), _default(field)))
        elif get_origin(field.annotation) is dict:
            below.append((inner, f"{path}{name}.NAME"))
        else:
            below.append((inner, f"{path}{name}" + ("[]" if get_origin(field.annotation) is tuple else "")))
    if own:
        yield "\n".join([f"[{path.rstrip('.') or 'top'}]  {_first_line(model)}", *_aligned(own)])
    for inner, where in below:
        yield from _tables(inner, f"{where}.")


def _aligned(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for name, kind, default in rows:
        yield f"  {name.ljust(widths[0])}  {kind.ljust(widths[1])}  {default}".rstrip()


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0] if model.__doc__ else ""


def _model_in(kind: Any) -> type[BaseModel] | None:
    for part in (kind, *get_args(kind)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _type(kind: Any, metadata: list[Any]) -> str:
    if any(getattr(m, "func", None) is parse_duration for m in metadata):
        return "duration"
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type(args[0], list(args[1:]))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(a, []) for a in args if a is not type(None))
    if origin is Literal:
        return " or ".join(f'"{a}"' for a in args)
    if origin is tuple:
        return f"list of {_type(args[0], [])}"
    if origin is dict:
        return "table"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(f'"{member.value}"' for member in kind)
    limits = ", ".join(_limit(m) for m in metadata if _limit(m))
    name = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
        getattr(kind, "__name__", ""), str(kind)
    )
    return f"{name} ({limits})" if limits else name


def _limit(constraint: Any) -> str:
    marks = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    for word, mark in marks.items():
        if (value := getattr(constraint, word, None)) is not None:
            return f"{mark} {value}"
    return " ".join(_limit(m) for m in getattr(constraint, "metadata", ()))


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value in ({}, (), None, ""):
        return ""
    if isinstance(value, Enum):
        return f"default {value.value}"
    if isinstance(value, tuple):
        return f"default {', '.join(map(str, value))}"
    if isinstance(value, float) and any(getattr(m, "func", None) is parse_duration for m in field.metadata):
        return f"default {span(value) if value >= 1 else f'{value:g}s'}"
    return f"default {str(value).lower() if isinstance(value, bool) else value}"
