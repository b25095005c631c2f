"""`state diff`: where the record and the world differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from console.output import Outcome, Table
from state.words import ExitCode

if TYPE_CHECKING:
    from console.commands.context import Context


def diff(context: Context) -> Outcome:
    """Every difference with what to do about it. Only a running engine can look at both."""
    items = context.client.get("/v1/state/diff")
    rows = [(i["kind"], i["ref"], i["record"], i["world"], i["todo"]) for i in items]
    counted = context.options.detailed_exitcode and items
    return Outcome(
        "Difference",
        items,
        blocks=(Table(("WHAT", "OF", "RECORD", "WORLD", "TO DO"), rows, empty="the record and the world agree"),),
        names=[f"{i['kind']}/{i['ref']}" for i in items],
        exit=ExitCode.CHANGES if counted else ExitCode.OK,
    )
