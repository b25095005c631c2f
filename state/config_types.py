"""What every table of `airboss.toml` is made of: durations, names, percents, and the strict model."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, None: 1.0}


def parse_duration(value: object) -> float:
    """Seconds of `30`, `"90s"`, `"5m"`, `"1h30m"`. Raises ValueError with what is allowed."""
    if isinstance(value, bool) or value is None:
        raise ValueError("must be a duration such as 90, '90s', '5m' or '1h30m'")
    if isinstance(value, int | float):
        return float(value)
    text = str(value).strip()
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(m.group(0) for m in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as '90s', '5m' or '1h30m'")
    return sum(float(m.group(1)) * _UNIT_S[m.group(2)] for m in parts)


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,61}", value):
        raise ValueError("must be 1-62 of a-z, 0-9 and '-', starting with a letter or digit")
    return value


Duration = Annotated[float, BeforeValidator(parse_duration)]
Name = Annotated[str, AfterValidator(_name)]
Percent = Annotated[int, Field(ge=0, le=100)]


class Table(BaseModel):
    """A table: unknown fields are errors, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
