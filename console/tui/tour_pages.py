"""The first-run tour: five screens of what one needs on a first day and in a first incident. Pure."""

from __future__ import annotations

from console.tui.keymap import BY_ID
from console.tui.text import Line, line, wrap

TITLES = (
    "What you see",
    "Finding your way",
    "A rollout, and what the judge says",
    "Doing something",
    "An incident: ten things",
)
INCIDENT: tuple[tuple[tuple[str, ...], str], ...] = (
    (("view_6", "ack"), "what pages, and that you look at it"),
    (("view_6", "into"), "what changed in the half hour before it; 8 has every act and its author"),
    (("scale", "=h"), "hold: stop all automatic movement for half an hour"),
    (("rollback", "=y"), "roll back: the plan is ready, nothing is typed"),
    (("scale", "=n"), "scale: how many replicas; `service scale … --for 2h` ends by itself"),
    (("scale", "=1", "=y"), "restart one sick replica; its streams finish first"),
    (("scale", "=w"), "set the canary's weight"),
    (("logs", "shell"), "logs of all replicas, ended ones too (7 l: of one); and a shell that knows the object"),
    (("ask",), "send one request to a track (7 r: to one replica), and see the answer"),
    (("note", "incident"), "leave a note, write the report, hand over"),
)
"""The keys of each (a name of the registry, or `=x` for a letter inside a menu or a panel), and what they are for."""


def presses(keys: tuple[str, ...]) -> str:
    """The keys as they are pressed, one after another."""
    return " ".join(name[1:] if name.startswith("=") else BY_ID[name].show for name in keys)


def tour_page(number: int, width: int) -> list[Line]:
    """Screen `number`, from 0."""
    body = (_seen, _ways, _rollout, _acts, _incident)[number](width)
    dots = "".join("●" if n == number else "○" for n in range(len(TITLES)))
    return [
        line((TITLES[number], "title"), (f"   {dots}  {number + 1} of {len(TITLES)}", "dim")),
        (),
        *body,
        (),
        line((" enter ", "badge.on"), (" on    ", "dim"), ("←", "key"), (" back    ", "dim"), ("esc", "key"), (" leave", "dim"),
             ("    again any time: ", "dim"), (":tour", "accent")),
    ]  # fmt: skip


def _keys(rows: tuple[tuple[str, str], ...], width: int) -> list[Line]:
    room = max(len(keys) for keys, _ in rows) + 3
    lines: list[Line] = []
    for keys, text in rows:
        for n, row in enumerate(wrap(text, max(10, width - room - 2))):
            lines.append(line((f"  {keys if n == 0 else '':<{room}}", "key"), *row))
    return lines


def _seen(width: int) -> list[Line]:
    return [
        *wrap("A line is a service in an environment: what is live, how much is asked of it, how it answers, what is left of its error budget.", width),
        (),
        *_keys((
            ("✓ ✗ ≈ ▸", "state is a glyph and a word; colour only says it again"),
            ("PRODUCTION", "the environment is named on every screen and every dialog; protected ones ask for more"),
            ("grey", "the engine does not answer: the last data, and since when. What serves goes on serving"),
            ("! ▲", "alerts, in the tabs and on the line of the service they are about"),
        ), width),
        (),
        *wrap("Nothing runs in this terminal. Close it, lose the line, come back: it shows where things are.", width, "dim"),
    ]  # fmt: skip


def _ways(width: int) -> list[Line]:
    return _keys((
        ("1 … 8", "fleet, rollouts, runs, releases, SLOs, alerts, serving, audit"),
        ("enter esc", "into what the cursor is on, and back"),
        ("< >", "where you were before, and forth again"),
        ("/", "rows with a text; `!text` without it"),
        (":", "the words of the shell: `:rollouts @production /chat`, `:rollout abort ro-3`"),
        ("d g = l r", "describe, lineage, what differs, log, one request"),
        ("f , .", "hold the screen; step back and forth through the last half hour"),
        ("? ctrl+p", "every key, and every verb, searchable, with why one may not run now"),
    ), width)  # fmt: skip


def _rollout(width: int) -> list[Line]:
    return [
        *wrap("A rollout goes step by step. At each step the judge compares canary and stable on the gateway's own counts, and says one of four words:", width),
        (),
        *_keys((
            ("PASS", "no worse than stable, or good enough for the objective: it goes on"),
            ("FAIL", "worse: users go back to stable by themselves"),
            ("INCONCLUSIVE", "not enough requests to say; the page tells how many and how long"),
            ("NO_DATA", "no evidence: it pauses. No evidence is never a pass"),
        ), width),
        (),
        *wrap("The page shows the sentence, the numbers, what it waits for, and what `p` and `b` would change now.", width, "dim"),
    ]  # fmt: skip


def _acts(width: int) -> list[Line]:
    return [
        *_keys((
            ("b y", "roll back: always two keys, from any state"),
            ("p", "promote: next step, a weight, all at once, approve"),
            ("x z t", "abort, pause or resume, retry"),
            ("S", "scale and traffic: weight, how many replicas, hold, restart one"),
        ), width),
        (),
        *wrap("What moves traffic opens a panel with its plan, on Cancel. `y` does it; enter does not, nor does what was pasted or typed before the "
              "panel was seen. Where more is at stake you type the service's name, and why.", width),
        (),
        *wrap("`Y` in a panel copies the line that does the same in a script: `airboss help scripts`.", width, "dim"),
    ]  # fmt: skip


def _incident(width: int) -> list[Line]:
    return _keys(tuple((presses(keys), text) for keys, text in INCIDENT), width)
