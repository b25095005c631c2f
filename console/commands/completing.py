"""Parameters that name something complete, in a shell, to what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from console.commands.options import given_options

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

REFS = ("service", "rollout", "run", "release", "alert", "env", "pipeline")
"""What a reference of any kind may begin with."""


def _kind(noun: str, param: click.Parameter) -> str:
    """The kind of thing that a parameter of a command under `noun` names; "" for one that names none."""
    name, shown = param.name or "", (param.metavar or "").strip("[]")
    if shown in ("RELEASE", "ROLLOUT", "RUN", "ALERT", "SILENCE", "GLASS", "HOOK"):
        return shown.lower()
    if name in ("service", "services", "env", "pipeline", "replica", "release", "ref"):
        return name.removesuffix("s")
    if name in ("before", "after") and noun == "release":
        return "release"
    if shown == "SERVICE|rollout/ID":
        return "held"
    if name == "name" and noun in ("service", "pipeline") and shown != "NAME":
        return noun
    return {"topic": "topic", "verb": "verb"}.get(name, "")


def with_live_names(noun: str, params: list[click.Parameter]) -> None:
    """Let the parameters that name something complete to what is there."""
    for param in params:
        if param.type is click.STRING and (kind := _kind(noun, param)):
            param.type = LiveName(kind)


class LiveName(click.types.StringParamType):
    """Text, and in a shell the name of something that is there."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """The names that begin so; none when they cannot be had at once."""
        from click.shell_completion import CompletionItem

        from console.commands.live_names import names

        given = given_options(ctx)
        kind, before, typed = self.kind, "", incomplete
        if kind == "held":
            kind = "rollout" if typed.startswith("rollout/") else "service"
            before = "rollout/" if kind == "rollout" else ""
        elif kind == "ref":
            kind, slash, _ = typed.partition("/")
            begun = [one for one in REFS if one.startswith(typed)]
            if not slash and len(begun) != 1:
                return [CompletionItem(f"{one}/") for one in begun]
            # One kind alone is gone into at once: after a single answer the shell would go on to the next word.
            kind, typed = (kind, typed) if slash else (begun[0], f"{begun[0]}/")
            before = f"{kind}/"
        found = names(kind, typed[len(before) :], given.get("workspace"), str(given.get("engine") or ""))
        # A name with control characters in it is for no prompt.
        rows = [(name, "".join(ch for ch in about if ch.isprintable())) for name, about in found if name.isprintable()]
        return [CompletionItem(before + name, help=about) for name, about in rows]
