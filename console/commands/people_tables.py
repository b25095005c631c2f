"""Freezes, broken glasses, approvals, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from console.commands.format import NONE, clock
from console.commands.tables import Item, listing
from console.output import Block, Outcome, Table


def freezes(items: Sequence[Item], filter: str = "") -> Outcome:
    """What keeps environments still: freezes, holds, and the windows of airboss.toml, the next ones too."""
    return listing(
        "Freeze",
        items,
        ("ENV", "KIND", "NOW", "FROM", "UNTIL", "BY", "REASON"),
        lambda i: (
            i["env"],
            i["kind"],
            "yes" if i["in_force"] else "to come",
            clock(i["since"]),
            clock(i["until"]),
            i["by"],
            i.get("reason") or NONE,
        ),
        lambda i: f"{i['kind']}/{i['name'].removeprefix(i['kind'] + '/')}@{i['env']}",
        filter=filter,
        empty="nothing is frozen or held",
    )


def glasses(items: Sequence[Item], filter: str = "") -> Outcome:
    """Who went past the rules, and who looked at it."""
    return listing(
        "BrokenGlass",
        items,
        ("GLASS", "AT", "ROLLOUT", "ENV", "BY", "VERB", "WENT PAST", "REASON", "ACKNOWLEDGED"),
        lambda i: (
            str(i["id"]),
            clock(i["at"]),
            i["rollout_id"],
            i["env"],
            i["by"],
            i["verb"],
            i["passed"],
            i["reason"],
            f"{i['acked_by']} {clock(i['acked_at'])}" if i.get("acked_at") else "NOT YET",
        ),
        lambda i: f"glass/{i['id']}",
        filter=filter,
        right=(0,),
        empty="nobody went past the rules",
    )


def gate_facts(item: Item) -> list[tuple[str, str]]:
    """The plan's hash, and how far its approval is, for `rollout show`."""
    gate = item.get("gate")
    facts = []
    if gate:
        facts.append(("plan", f"{gate['plan'][:12]} (sha256 of release, steps, judge and objective)"))
        if gate["needed"]:
            left = f", cancelled at {clock(gate['expires_at'])} without" if gate.get("expires_at") else ""
            facts.append(("approvals", f"{gate['approvals']} of {gate['needed']} at {gate['at']}{left}"))
    for glass in item.get("glass") or ():
        seen = f"acknowledged by {glass['acked_by']}" if glass.get("acked_at") else "NOT ACKNOWLEDGED"
        facts.append((f"glass {glass['id']}", f"{glass['by']} went past {glass['passed']}: {glass['reason']} ({seen})"))
    return facts


def said_block(item: Item) -> list[Block]:
    """Who said yes and no, for `rollout show`."""
    said = (item.get("gate") or {}).get("said") or ()
    if not said:
        return []
    rows = [
        (clock(s["at"]), s["by"], s["decision"], s["plan"][:12] or NONE, "void" if s["is_void"] else "counts",
         s.get("reason") or NONE)
        for s in said
    ]  # fmt: skip
    return [Table(("AT", "BY", "SAID", "OF PLAN", "NOW", "REASON"), rows)]


def hooks(items: Sequence[Item], filter: str = "") -> Outcome:
    """Hooks and how they are told."""
    return listing(
        "Hook",
        items,
        ("HOOK", "LEADS TO", "SIGNED", "EVENTS", "ENVS", "WAITING", "FAILED", "LAST TOLD", "ERROR"),
        lambda i: (
            i["name"],
            i["leads_to"],
            "yes" if i["signed"] else "no",
            ", ".join(i["events"]),
            ", ".join(i["environments"]) or "all",
            str(i["waiting"]),
            str(i["failed"]),
            clock(i.get("told_at")),
            i.get("error") or NONE,
        ),
        lambda i: f"hook/{i['name']}",
        filter=filter,
        right=(5, 6),
        empty="no hooks; [hook.NAME] in airboss.toml makes one",
    )


def deliveries(items: Sequence[Item], filter: str = "") -> Outcome:
    """What hooks were told."""
    return listing(
        "Delivery",
        items,
        ("DELIVERY", "HOOK", "EVENT", "ABOUT", "STATE", "TRIES", "MADE", "NEXT TRY", "ERROR"),
        lambda i: (
            str(i["id"]),
            i["hook"],
            i["event"],
            i["ref"],
            i["state"],
            str(i["attempts"]),
            clock(i["created_at"]),
            clock(i.get("next_at")),
            i.get("error") or NONE,
        ),
        lambda i: f"delivery/{i['id']}",
        filter=filter,
        right=(0, 5),
        empty="nothing was delivered yet",
    )
