"""The fixed prompts that every release answers before it may be one. A change of the set is a new version of it."""

from __future__ import annotations

from typing import Any

from state.digests import canonical_json, text_sha256

NAME = "charlm-regression"
VERSION = 1
MAX_TOKENS = 48
DECODING = "greedy, the first character no white space"
PROMPTS: tuple[tuple[str, str], ...] = (
    ("sentence", "The "),
    ("definition", "A function is "),
    ("statement", "This statement "),
    ("list", "For example, "),
    ("condition", "If the "),
    ("question", "What is "),
    ("dialogue", "ROMEO:\n"),
    ("code", "def "),
    ("number", "In 2026, "),
    ("odd", "~~ \u20ac {x} ~~ "),
)
"""(name, prompt). Any model answers any of them: characters it does not know become its replacement."""


def body() -> dict[str, Any]:
    """The set as it is recorded."""
    return {"max_tokens": MAX_TOKENS, "decoding": DECODING, "prompts": [{"name": n, "prompt": p} for n, p in PROMPTS]}


def prompt_facts() -> dict[str, Any]:
    """What the engine records of the set: id, name, version, sha256, body."""
    found = body()
    return {
        "id": f"{NAME}/{VERSION}",
        "name": NAME,
        "version": VERSION,
        "sha256": text_sha256(canonical_json(found)),
        "body": found,
    }
