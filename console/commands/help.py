"""`help TOPIC`: generated from the enums, the verb table and the schemas, so that it cannot say something else than they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from console.commands.requests import LocalRequest
from console.commands.tree import leaf

if TYPE_CHECKING:
    from console.commands.context import Context
    from console.output import Outcome


@leaf(
    None,
    "help",
    examples=(
        ("airboss help", "the topics"),
        ("airboss help exit-codes", "what each code means to a script"),
        ("airboss help rollout promote", "the same as `airboss rollout promote --help`"),
    ),
)
@click.argument("topic", nargs=-1)
def help_(topic: tuple[str, ...]) -> LocalRequest:
    """A topic, or a command's help."""
    return LocalRequest("console.commands.help:show", {"topic": topic})


def show(context: Context, *, topic: tuple[str, ...]) -> Outcome:
    """The text of a topic. Raises UsageError that lists them."""
    import difflib

    from console.commands.grammar import HelpWanted, parse_args, root
    from console.commands.topics import TOPICS
    from console.output import Outcome, Text
    from state.words import UsageError

    if not topic:
        width = max(map(len, TOPICS))
        lines = "\n".join(f"  {name.ljust(width)}  {about}" for name, (about, _) in TOPICS.items())
        text = f"airboss help TOPIC:\n{lines}\n\nairboss help COMMAND: the same as `airboss COMMAND --help`"
        return Outcome("Help", [{"topics": list(TOPICS)}], blocks=(Text(text),), names=list(TOPICS))
    if len(topic) == 1 and topic[0] in TOPICS:
        text = TOPICS[topic[0]][1]()
    elif topic[0] in root.places:
        try:
            parse_args([*topic, "--help"])
            text = ""
        except HelpWanted as wanted:
            text = wanted.text
    else:
        near = difflib.get_close_matches(topic[0], [*TOPICS, *root.places], n=3)
        raise UsageError(
            f"there is no topic {' '.join(topic)!r}",
            hint=f"perhaps {' or '.join(near)}" if near else f"topics: {', '.join(TOPICS)}",
        )
    return Outcome("Help", [{"topic": " ".join(topic), "text": text}], blocks=(Text(text),), names=(" ".join(topic),))
