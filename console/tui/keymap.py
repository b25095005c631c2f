"""The keys: one registry that feeds bindings, footer, `?`, the palette and the `:` line. Pure.

The same letter is the same verb everywhere. Letters that end escape sequences (A–D, F, H, O–S, Z, `[`) act on nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.verbs import VERBS

LISTS = ("fleet", "rollouts", "runs", "releases", "slos", "alerts", "serving", "audit")
"""The views on `1` to `8`, in this order."""
PAGES = ("rollout", "run", "item", "lineage", "log")
"""What `enter`, `d` and `g` open: a rollout, a run, any other object, a tree."""
ALL = frozenset((*LISTS, *PAGES))
VIEW_TITLES = {
    "fleet": "Fleet",
    "rollouts": "Rollouts",
    "runs": "Runs",
    "releases": "Releases",
    "slos": "SLOs",
    "alerts": "Alerts",
    "serving": "Serving",
    "audit": "Audit",
}
VIEW_ALIASES = {
    "service": "fleet",
    "services": "fleet",
    "rollout": "rollouts",
    "run": "runs",
    "pipeline": "runs",
    "pipelines": "runs",
    "release": "releases",
    "slo": "slos",
    "alert": "alerts",
    "replica": "serving",
    "replicas": "serving",
    **{name: name for name in LISTS},
}
"""What may be typed after `:` → view."""
ESCAPE_FINALS = frozenset("ABCDFHOPQRSZ[")
NOT_IN_FOOTER = 99


@dataclass(frozen=True, slots=True)
class Key:
    """A key: what it is called, what it does, where. `verbs` are those it may run, in the order they are tried."""

    id: str
    keys: tuple[str, ...]
    show: str
    label: str
    help: str
    group: str
    views: frozenset[str] = ALL
    verbs: tuple[str, ...] = ()
    rank: int = NOT_IN_FOOTER
    """Place in the footer, the smallest first."""

    @property
    def acts(self) -> bool:
        """Whether it can change something."""
        return bool(self.verbs)


def _in(*views: str) -> frozenset[str]:
    return frozenset(views)


_ROLLING = _in("fleet", "rollouts", "rollout")
KEYS: tuple[Key, ...] = (
    Key(
        "promote",
        ("p",),
        "p",
        "promote",
        "promote menu: next step, a weight, all at once, approve, adopt",
        "act",
        _ROLLING,
        (
            "rollout.promote",
            "rollout.promote_full",
            "rollout.weight",
            "rollout.approve",
            "rollout.reject",
            "rollout.adopt",
        ),
        20,
    ),
    Key(
        "rollback",
        ("b",),
        "b",
        "roll back",
        "return the service to its last good release: `b` shows the plan, `y` does it",
        "act",
        _ROLLING,
        ("rollback",),
        21,
    ),
    Key(
        "abort",
        ("x",),
        "x",
        "abort",
        "give the rollout up and return to stable; on a run: stop it",
        "act",
        _ROLLING | _in("runs", "run"),
        ("rollout.abort", "run.cancel"),
        22,
    ),
    Key(
        "pause",
        ("z",),
        "z",
        "pause",
        "pause a rollout, or let it go on",
        "act",
        _ROLLING,
        ("rollout.pause", "rollout.resume"),
        23,
    ),
    Key(
        "retry",
        ("t",),
        "t",
        "retry",
        "roll the same release out again; on a run: run again what failed",
        "act",
        _ROLLING | _in("runs", "run"),
        ("rollout.retry", "run.retry"),
        24,
    ),
    Key("ack", ("a",), "a", "ack", "say that you look at the alert", "act", _in("alerts", "item"), ("alert.ack",), 20),
    Key(
        "silence",
        ("m",),
        "m",
        "silence",
        "no notification of the alert for an hour",
        "act",
        _in("alerts"),
        ("alert.silence",),
        21,
    ),
    Key(
        "note",
        ("n",),
        "n",
        "note",
        "leave a note on the object; it stays in the audit log",
        "act",
        ALL - _in("audit", "lineage"),
        ("note",),
        40,
    ),
    Key(
        "into",
        ("enter",),
        "enter",
        "open",
        "go into what the cursor is on",
        "go",
        ALL - _in("item", "rollout", "run", "log"),
        rank=10,
    ),
    Key("back", ("escape",), "esc", "back", "clear the filter, else go up", "go", rank=60),
    Key("visit_back", ("less_than_sign",), "<", "", "where one was before", "go"),
    Key("visit_forth", ("greater_than_sign",), ">", "", "and forth again", "go"),
    Key("quit", ("q",), "q", "quit", "go back; on a view: leave the console (nothing stops running)", "go"),
    Key("view_1", ("1",), "1", "fleet", "services by environment", "go"),
    Key("view_2", ("2",), "2", "rollouts", "rollouts, the newest first", "go"),
    Key("view_3", ("3",), "3", "runs", "pipeline runs", "go"),
    Key("view_4", ("4",), "4", "releases", "releases", "go"),
    Key("view_5", ("5",), "5", "SLOs", "objectives, budgets, burn rates", "go"),
    Key("view_6", ("6",), "6", "alerts", "active alerts", "go"),
    Key("view_7", ("7",), "7", "serving", "gateway and model servers", "go"),
    Key("view_8", ("8",), "8", "audit", "every change and its author", "go"),
    Key("all_envs", ("0",), "0", "all envs", "show all environments again", "go", frozenset(LISTS)),
    Key("describe", ("d",), "d", "describe", "every field of the object", "look", ALL - _in("lineage"), rank=30),
    Key(
        "logs",
        ("l",),
        "l",
        "logs",
        "the log of a run's stage, or of a service's replicas, ended ones too; inside it: follow on and off",
        "look",
        _in("runs", "run", "fleet", "rollouts", "rollout", "serving", "alerts", "log"),
        rank=11,
    ),
    Key(
        "lineage",
        ("g",),
        "g",
        "lineage",
        "what it was made from; again: what was made from it",
        "look",
        _in("fleet", "rollouts", "runs", "releases", "rollout", "run", "item", "lineage", "serving"),
        rank=31,
    ),
    Key(
        "history", ("h",), "h", "history", "active alerts only, or all there ever were", "look", _in("alerts"), rank=22
    ),
    Key(
        "filter",
        ("slash",),
        "/",
        "filter",
        "show rows, or lines of a log, with a text; `!text`: those without it",
        "look",
        frozenset((*LISTS, "log", "run")),
        rank=50,
    ),
    Key("hold", ("f",), "f", "hold", "hold the screen still; again: go on", "look"),
    Key("earlier", ("comma",), ",", "", "a step back in time, up to half an hour; the screen is held", "look"),
    Key("later", ("full_stop",), ".", "", "a step forth in time", "look"),
    Key(
        "incident", ("e",), "e", "incident", "write an incident report of the last two hours: Markdown and JSON", "look"
    ),
    Key(
        "copy", ("c",), "c", "copy", "copy the object's reference (OSC 52: through SSH into your own clipboard)", "look"
    ),
    Key(
        "copy_line",
        ("Y",),
        "Y",
        "",
        "copy the shell line that shows the object; in a dialog: that does the same",
        "look",
    ),
    Key(
        "compare",
        ("equals_sign",),
        "=",
        "diff",
        "what differs: of a rollout, a service, or one release and then another",
        "look",
        _in("fleet", "rollouts", "rollout", "releases", "serving", "item"),
    ),
    Key(
        "ask",
        ("r",),
        "r",
        "ask",
        "send one request to a track, or to the replica under the cursor, and see the answer",
        "look",
        _in("fleet", "rollouts", "rollout", "serving", "log"),
    ),
    Key("shell", ("s",), "s", "shell", "a shell in the workspace that knows the object ($AIRBOSS_REF, ...)", "look"),
    Key(
        "scale",
        ("S",),
        "S",
        "",
        "scale and traffic menu: weight, how many replicas, hold, restart a replica",
        "look",
        _in("fleet", "rollouts", "rollout", "serving"),
    ),
    Key("command", ("colon",), ":", "command", "a command line: the same words as in the shell", "go", rank=51),
    Key("help", ("question_mark", "f1"), "?", "help", "this list; type to search, enter runs the key", "go", rank=90),
    Key("palette", ("ctrl+p",), "ctrl+p", "palette", "every verb, with why one may not run", "go"),
    Key("up", ("up", "k"), "↑ k", "", "one up", "move"),
    Key("down", ("down", "j"), "↓ j", "", "one down", "move"),
    Key("page_up", ("pageup", "ctrl+b"), "PgUp", "", "a page up", "move"),
    Key("page_down", ("pagedown", "space"), "PgDn", "", "a page down", "move"),
    Key("half_up", ("ctrl+u",), "ctrl+u", "", "half a page up", "move"),
    Key("half_down", ("ctrl+d",), "ctrl+d", "", "half a page down", "move"),
    Key("top", ("home",), "Home", "", "to the first", "move"),
    Key("bottom", ("end", "G"), "End G", "", "to the last", "move"),
    Key("left", ("left",), "←", "", "scroll left", "move"),
    Key("right", ("right",), "→", "", "scroll right", "move"),
)
BY_ID = {key.id: key for key in KEYS}
GROUPS = {"act": "Acts", "look": "Looks", "go": "Goes", "move": "Moves"}


def keys_of(view: str) -> tuple[Key, ...]:
    """The keys that apply in a view, as the help lists them."""
    return tuple(key for key in KEYS if view in key.views)


def footer_keys(view: str, width: int) -> tuple[Key, ...]:
    """The keys the footer shows at a width: never more than fit, eight at most at 80 columns, `?` always."""
    ranked = sorted((k for k in keys_of(view) if k.rank < NOT_IN_FOOTER), key=lambda k: k.rank)
    last, rest = ranked[-1], ranked[:-1]
    most = 8 if width <= 80 else 16
    shown: list[Key] = []
    room = width - _footer_width(last)
    for key in rest:
        if len(shown) + 1 >= most or _footer_width(key) > room:
            continue
        shown.append(key)
        room -= _footer_width(key)
    return (*shown, last)


def _footer_width(key: Key) -> int:
    return len(key.show) + len(key.label) + 3


def key_of_verb(verb: str) -> Key | None:
    """The key that runs a verb."""
    return next((key for key in KEYS if verb in key.verbs), None)


def verbs_without_key() -> tuple[str, ...]:
    """Verbs that only the palette and the `:` line run."""
    return tuple(name for name in VERBS if key_of_verb(name) is None)
