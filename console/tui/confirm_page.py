"""The confirm panel as lines: what, where, the plan, the same as a shell line, what is asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from console.tui.acts import VerbCall
from console.tui.plan_lines import plan_lines
from console.tui.script_lines import script_line
from console.tui.signs import env_badge
from console.tui.text import Line, line, wrap
from engine.api.schemas import PlanView
from engine.verbs import Confirm


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed into a panel so far, and which field takes letters: `name`, `reason` or none."""

    name: str = ""
    reason: str = ""
    field: str = ""
    note: str = ""
    """What the panel answers to the last key."""
    note_tone: str = "warn"


def first_field(call: VerbCall) -> str:
    """The field that takes letters when the panel opens; a plain yes has none."""
    return "name" if call.rung >= Confirm.NAME else "reason" if call.asks_reason else ""


def missing(call: VerbCall, asked: Asked) -> str:
    """What still keeps `y` from being taken; empty when nothing does."""
    if call.rung >= Confirm.NAME and asked.name != call.name:
        return f"type {call.name} and enter first"
    if call.asks_reason and not asked.reason.strip():
        return "type a reason and enter first"
    return ""


def head_lines(call: VerbCall, width: int) -> list[Line]:
    """The verb, its object, and the environment in word and colour."""
    where = env_badge(call.env, call.protected) if call.env else ()
    what = line(
        (call.verb.replace("rollout.", "").replace("_", " ").replace(".", " "), "title"),
        ("  ", ""),
        (call.ref.replace("/", " "), "strong"),
        ("  ", ""),
    )
    return [(*what, *where), *wrap(call.summary, width, "dim"), ()]


def body_lines(call: VerbCall, plan: PlanView | None, fault: str, width: int) -> list[Line]:
    """The plan, or that it is being asked for, or why there is none."""
    if fault:
        return wrap(fault, width, "bad")
    return plan_lines(plan, width) if plan is not None else [line(("asking the engine what would change…", "dim"))]


def foot_lines(call: VerbCall, asked: Asked, *, armed: bool, refused: bool, width: int) -> list[Line]:
    """The script line, the fields, Cancel, and what accepts."""
    lines: list[Line] = [
        (),
        *[
            line(("same as  " if i == 0 else "         ", "dim"), *row)
            for i, row in enumerate(wrap(script_line(call, asked.reason), width - 9, "accent"))
        ],
        (),
    ]
    if call.rung >= Confirm.NAME:
        lines.append(_field(f"type the name {call.name}", asked.name, asked.field == "name", asked.name == call.name))
    if call.asks_reason:
        lines.append(
            _field(
                "and the reason" if call.rung >= Confirm.NAME else "the reason",
                asked.reason,
                asked.field == "reason",
                bool(asked.reason.strip()),
            )
        )
    if call.rung >= Confirm.NAME or call.asks_reason:
        lines.append(())
    ready = armed and not refused and not missing(call, asked)
    accept = ("", "") if refused else (f"   {verb_word(call)}", "strong" if ready else "key.off")
    lines.append(
        line(
            (" Cancel ", "badge.on"),
            (" esc enter", "dim"),
            ("      y" if not refused else "", "key" if ready else "key.off"),
            accept,
            ("      Y", "key"),
            ("  copy the line", "dim"),
        )
    )
    lines.append(line((asked.note, asked.note_tone)))
    return lines


def verb_word(call: VerbCall) -> str:
    """What `y` says it does."""
    words = {
        "rollback": "Roll back",
        "rollout.promote": "Next step",
        "rollout.promote_full": "To 100 %, gates skipped",
        "rollout.abort": "Abort",
        "rollout.resume": "Resume",
        "rollout.retry": "Retry",
        "rollout.adopt": "Adopt what is there",
        "rollout.weight": "Set the weight",
        "rollout.approve": "Approve",
        "rollout.reject": "Refuse",
        "run.cancel": "Stop the run",
        "alert.silence": "Silence",
    }
    return words.get(call.verb, call.verb.replace(".", " ").replace("_", " ").capitalize())


def _field(label: str, value: str, is_on: bool, is_good: bool) -> Line:
    mark = ("✓ " if is_good else "▸ " if is_on else "· ", "ok" if is_good else "key" if is_on else "dim")
    return line(mark, (f"{label}: ", "strong" if is_on else "dim"), (value, "accent"), ("▏" if is_on else "", "key"))
