"""The `:` line: the shell's own grammar, understood as a view to show, an object to open, or a verb to confirm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from console.rows import first_of
from console.tui.acts import VerbCall, call_of_request, ref_of
from console.tui.keymap import VIEW_ALIASES
from console.tui.scene import Item
from engine.api.schemas import Snapshot, VerbRequest
from state.words import UsageError


@dataclass(frozen=True, slots=True)
class Asked:
    """A view, narrowed; or one object; or where one came from."""

    view: str = "fleet"
    filter: str = ""
    env: str | None = None
    ref: str = ""
    lineage: str = ""


def understand(text: str, snapshot: Snapshot | None) -> Asked | VerbCall:
    """What a line asks for. Raises UsageError with what is wrong with it, or where it can be done."""
    from console.commands.grammar import HelpWanted, parse_line

    try:
        request = parse_line(text)
    except HelpWanted as wanted:
        raise UsageError(
            wanted.text.strip().splitlines()[0], hint="? lists the keys; the shell's --help teaches the rest"
        ) from None
    if isinstance(request, VerbRequest):
        return call_of_request(request, snapshot)
    if request.view == "lineage":
        return Asked(lineage=request.ref)
    view = VIEW_ALIASES.get(request.view)
    if view is None:
        raise UsageError(f"the console has no view {request.view!r}", hint=f"run `airboss {text}` in a shell")
    return Asked(view, request.filter, request.env, request.ref)


def find(ref: str, snapshot: Snapshot | None) -> Item | None:
    """The object that a reference names, in the snapshot."""
    if snapshot is None:
        return None
    pools: tuple[Sequence[Item], ...] = (
        snapshot.rollouts,
        snapshot.runs,
        snapshot.releases,
        snapshot.alerts,
        snapshot.fleet,
    )
    wanted = (ref.replace(":", "/", 1) if "/" not in ref else ref).partition("@")[0]
    name = wanted.partition("/")[2]
    found = (first_of(pool, name, lambda item: ref_of(item) == wanted) for pool in pools)
    return next((item for item in found if item is not None), None)
