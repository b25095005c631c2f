"""How records are named to people, in one place. Standard library only."""

from __future__ import annotations


def model_label(name: str, version: str) -> str:
    """`charlm v3`; the bare name of a model that the registry has no version of, "" for none."""
    return f"{name} v{version}" if name and version else name
