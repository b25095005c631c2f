"""YAML as DVC and most others read it today, 1.2's core types: `1e-4` is a number, `yes` and `2026-01-01` are texts.

PyYAML's own loader reads 1.1, where `1e-4` is a text: a learning rate would come out as one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from yaml import SafeDumper, SafeLoader
else:
    # libyaml's where PyYAML was built with it: a lock of thirty stages is read in two milliseconds instead of thirty.
    SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    SafeDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_TYPES: Final[tuple[tuple[str, str, str], ...]] = (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("tag:yaml.org,2002:int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:merge", r"^(?:<<)$", "<"),
)


class _Loader(SafeLoader):
    """SafeLoader with the types of YAML 1.2."""

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012  the base class declares it of instances


class _Dumper(SafeDumper):
    """Quotes what `_Loader` would read as something else, and nothing more. Sequences are written as DVC writes them."""

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012  the base class declares it of instances

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _TYPES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(_pattern), [c if c != "\0" else "" for c in _first])


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def load(text: str) -> Any:
    """The document in `text`. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def dump(value: Mapping[str, Any]) -> str:
    """`value` as a block-style document, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
