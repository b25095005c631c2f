"""May users be moved from one release to another? Prompt, tokenizer, schema, quantization, context length. Pure.

The judge cannot see what a client's own 4xx hides: a request that is too long for the new model, or one in the old shape, is
refused and does not count as an error. So these are compared before anything moves. A deployment that would break clients
is blocked with the way out; a rollback is never blocked: what changes goes back together and the plan names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How much a difference matters to those who use the service."""

    COMPATIBLE = "compatible"
    WARN = "warn"
    BLOCK = "block"


_RANK = {Level.COMPATIBLE: 0, Level.WARN: 1, Level.BLOCK: 2}


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a release its users can notice; empty or 0: not known. `settings` are the service's own, as rolled out."""

    release_id: str
    prompt: str = ""
    tokenizer: str = ""
    schema: str = ""
    template: str = ""
    quantization: str = "none"
    dtype: str = "float32"
    context: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that changes with the release, in words, with what to do when it matters too much."""

    part: str
    level: Level
    before: str
    after: str
    says: str
    way_out: str = ""


def compare(before: Traits, after: Traits) -> tuple[Difference, ...]:
    """What changes for users who are moved from `before` to `after`; what is unknown of either is not compared."""
    found = [*_shape(before, after), *_words(before, after), *_numbers(before, after)]
    return tuple(sorted(found, key=lambda d: -_RANK[d.level]))


def level_of(differences: Sequence[Difference]) -> Level:
    """The gravest of them."""
    return max((d.level for d in differences), key=_RANK.__getitem__, default=Level.COMPATIBLE)


def _shape(before: Traits, after: Traits) -> list[Difference]:
    found = []
    if _differs(before.schema, after.schema):
        found.append(
            Difference(
                "schema", Level.BLOCK, _short(before.schema), _short(after.schema),
                f"clients written for {before.release_id} speak another schema than {after.release_id} takes",
                "move the clients first, or serve it under a service of its own",
            )
        )  # fmt: skip
    if 0 < after.context < before.context:
        found.append(
            Difference(
                "context length", Level.BLOCK, f"{before.context} tokens", f"{after.context} tokens",
                f"requests of more than {after.context} tokens, which {before.release_id} answers, are refused by "
                f"{after.release_id}; a refusal is a client's 4xx, so the judge does not see it",
                "make a release with at least that context, or tell the clients first",
            )
        )  # fmt: skip
    elif after.context > before.context > 0:
        found.append(
            Difference(
                "context length", Level.COMPATIBLE, f"{before.context} tokens", f"{after.context} tokens",
                "longer requests are answered; a rollback refuses them again",
            )
        )  # fmt: skip
    return found


def _words(before: Traits, after: Traits) -> list[Difference]:
    found = []
    if _differs(before.prompt, after.prompt):
        found.append(
            Difference(
                "prompt", Level.WARN, before.prompt, after.prompt,
                "the prompt belongs to the release and changes with the model: a verdict is on both together",
            )
        )  # fmt: skip
    if _differs(before.tokenizer, after.tokenizer):
        found.append(
            Difference(
                "tokenizer", Level.WARN, _short(before.tokenizer), _short(after.tokenizer),
                "texts have another number of tokens: quotas and prices move, and prompts sent as token numbers mean "
                "other text",
            )
        )  # fmt: skip
    if _differs(before.template, after.template):
        found.append(
            Difference(
                "chat template", Level.WARN, _short(before.template), _short(after.template),
                "a conversation is put before the model in another form",
            )
        )  # fmt: skip
    return found


def _numbers(before: Traits, after: Traits) -> list[Difference]:
    found = []
    numbers = (f"{before.quantization}/{before.dtype}", f"{after.quantization}/{after.dtype}")
    if numbers[0] != numbers[1]:
        found.append(
            Difference(
                "quantization", Level.WARN, *numbers,
                "the same weights answer a little differently in other bits: compare quality, not only errors",
            )
        )  # fmt: skip
    for name in sorted({*before.settings, *after.settings}):
        was, becomes = before.settings.get(name), after.settings.get(name)
        if was != becomes and name not in ("quantization", "dtype", "max_context"):
            found.append(
                Difference(
                    f"serving.{name}", Level.WARN, _said(was), _said(becomes),
                    "the service's settings in airboss.toml have changed since; they come and go with the release",
                )
            )  # fmt: skip
    return found


def _differs(before: str, after: str) -> bool:
    return bool(before and after and before != after)


def _short(digest: str) -> str:
    return digest[:12]


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)
