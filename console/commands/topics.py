"""The texts of `airboss help TOPIC`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from console.commands.topic_names import ABOUT
from state.words import ExitCode, PauseReason, Role, RolloutState, RunState, VerdictKind

_EXITS = {
    ExitCode.OK: "done, or already so (`unchanged`)",
    ExitCode.FAILED: "it ran and failed",
    ExitCode.USAGE: "wrong words or configuration, or a confirmation is missing and nobody can be asked",
    ExitCode.UNREACHABLE: "the engine or a backend does not answer; try again",
    ExitCode.TIMEOUT: "--timeout is over; the work goes on",
    ExitCode.WAITING: "it waits for a human (0 with --wait=paused)",
    ExitCode.CONFLICT: "wrong state for the verb, the revision moved, or a lock is held",
    ExitCode.DENIED: "denied: role, approval, freeze or read-only",
    ExitCode.GATE: "a gate or a verdict said no",
    ExitCode.CHANGES: "changes found (only with --detailed-exitcode)",
    ExitCode.HUP: "the terminal hung up",
    ExitCode.INT: "Ctrl-C; what was waited for goes on",
    ExitCode.PIPE: "nobody reads stdout any more",
    ExitCode.TERM: "terminated",
}


def exit_codes() -> str:
    """Every exit code."""
    return "Exit codes, the same for every command and script line:\n\n" + _pairs(
        (str(int(c)), t) for c, t in _EXITS.items()
    )


def options() -> str:
    """What every command takes."""
    import click

    from console.commands.grammar import root
    from console.commands.tree import global_options

    ctx = click.Context(root, info_name="airboss")
    records = [r for p in global_options(general=True, acting=True) if (r := p.get_help_record(ctx))]
    return (
        "Every command takes these, anywhere after its noun:\n\n"
        + _pairs(records)
        + "\n\nEnvironment: AIRBOSS_WORKSPACE, AIRBOSS_ENGINE, AIRBOSS_READ_ONLY, NO_COLOR, AIRBOSS_DEBUG,\n"
        "AIRBOSS_API_KEY (what `service ask` and `load` show the gateway)."
        "\nA flag beats the environment, which beats the workspace's file."
    )


def verbs() -> str:
    """The verb table."""
    from engine.verbs import VERBS

    ladder = {0: "nothing", 1: "y, or --yes", 2: "name, or --confirm-name", 3: "name and reason"}
    rows = [("VERB", "ROLE", "KEY", "CONFIRMED BY (PROTECTED)", "(ELSEWHERE)", "DOES")]
    rows += [
        (v.name, v.role.value, v.key or "-", ladder[v.confirm], ladder[v.relaxed], v.summary) for v in VERBS.values()
    ]
    return "Every verb, who may, and how it is confirmed:\n\n" + _columns(rows)


def roles() -> str:
    """Roles and what they may."""
    from engine.verbs import INCLUDES, VERBS

    own = ((role.value, ", ".join(v.name for v in VERBS.values() if v.role is role) or "look") for role in Role)
    more = ((role.value, ", ".join(r.value for r in Role if r in INCLUDES[role] and r is not role)) for role in Role)
    return (
        "Roles are given per environment to Unix users and groups, in [roles.ENV] of airboss.toml. Without such a table the\n"
        "engine's own user may do everything there, and others may look. Who asks is the operating system's word.\n"
        "`airboss access list` prints who has which role, `airboss access show` what you may do, and why.\n\n"
        "Each role's own verbs:\n\n"
        + _pairs(own)
        + "\n\nAnd the roles that it includes:\n\n"
        + _pairs((name, others or "-") for name, others in more)
    )


def rollouts() -> str:
    """States and refusals of rollouts."""
    from engine.verbs import ROLLOUT_VERBS, rollout_refusal

    rows = [("VERB", "RUNS IN")]
    for verb in ROLLOUT_VERBS:
        rows.append((verb, ", ".join(s.value for s in RolloutState if rollout_refusal(verb, s) is None)))
    pauses = ", ".join(reason.value for reason in PauseReason)
    text = (
        "A rollout moves one service in one environment from one release to another, a step at a time:\n"
        "planned, awaiting_approval, preparing, step_applying, step_baking, ..., promoting, verifying, completed.\n"
        f"It may stand paused({pauses}); a rollback, once begun, only goes on.\n\n" + _columns(rows)
    )
    return text + _readme("engine.rollouts")


def judge() -> str:
    """What verdicts mean."""
    says = {
        VerdictKind.PASS: "enough requests, and each metric is no worse than stable within the margin, or below the SLO's limit",
        VerdictKind.FAIL: "the canary is worse, at a level that stays valid however often one looks; it is rolled back",
        VerdictKind.INCONCLUSIVE: "not enough to say either; it waits, and pauses after max_minutes",
        VerdictKind.NO_DATA: "no evidence: no traffic, stale, a gap, unreachable. Never a pass; it pauses",
    }
    return (
        "The judge compares the canary with stable on the gateway's own counts, since the step's weight was acknowledged:\n\n"
        + _pairs((k.value, t) for k, t in says.items())
        + "\n\n[policy.NAME] judge = { margin, alpha, min_requests, max_minutes, guardrails }: `airboss help config`."
        + _readme("engine.rollouts", "JUDGE.md")
    )


def wait() -> str:
    """Conditions of --wait and `wait`."""
    states = ", ".join(s.value for s in RolloutState)
    runs = ", ".join(s.value for s in RunState)
    return (
        "--wait alone waits for `done`: a rollout completed, a run succeeded, a rollback arrived. --wait=COND and the script line\n"
        "`wait REF --for COND --timeout T` take:\n\n"
        f"  rollout/ID   done, ended, step=N, {states}\n"
        f"  run/ID       done, ended, {runs}\n"
        "  alert/N      active, resolved, acked\n"
        "  any of them, and service/NAME@ENV: an expression over its fields, such as 'weight>=25' or 'rps > 10'\n\n"
        "Exit 0 when it came to it; 8 when a verdict or gate said no; 5 when a human is waited for; 4 at --timeout; 1 when it\n"
        "failed. Ctrl-C leaves the work running and exits 130."
    )


def scripts() -> str:
    """The script language."""
    return """\
airboss --script FILE|- [-o json|junit] [--dry-run] [--set K=V] [--yes] [--timeout T]

A script is lines of the command line's grammar, without the word `airboss`. It is read and checked whole before its first
line runs. Nothing is ever asked: what must be confirmed says --yes (and --confirm-name) on its line, or the script is given --yes.

  # a comment; a line that ends in \\ goes on in the next
  let REL = charlm-3               a variable; $REL or ${REL} stands for it. --set REL=... wins over `let`
  let WAS = {service/chat@production.release_id}
                                   the value of a field, looked up when the line runs
  let RO = deploy chat $REL --env production --yes --confirm-name chat
                                   a command's own reference (here rollout/ro-7), of a list the first; `| .weight` behind it
                                   takes a field. One word, or text in quotation marks, is text
  deploy chat $REL --env production --yes --confirm-name chat
  wait $LAST --for step=2 --timeout 5m
                                   $LAST: what the last verb made or moved, here rollout/ro-7
  expect $OUTCOME == completed     what the rollout waited for last came to (see below)
  expect service/chat@production.budget_left >= 0.2 and alerts.paging == 0
                                   exits 8 when it does not hold; an unknown value holds nothing
  on-failure rollback chat --env production --yes
                                   once, when a later line ends the script badly; `on-failure none` takes it back
  set +e                           go on after a failed line; set -e (the default) stops at it
  echo TEXT
  sleep 10s

on-failure runs when the script stops with exit 1 (failed), 4 (time is over) or 8 (a gate or verdict said no), and when
SIGTERM or SIGINT ends it. It does not run on 2, 6 and 7 (the line did nothing), on 3 (there is no engine to do it) or on 5 (a
human has the next word). It has its own --timeout, else 120 s, and a first further signal does not stop it. The exit code stays
that of what went wrong.

A wait for a rollout, and --wait, end with:
  completed    0   users have the new release (or: the condition was met, whatever it was)
  rolled_back  8   by a verdict; 1 by a hand or a fault. All users are on stable
  cancelled, superseded  1   likewise on stable
  still_live   4   time is over, or 5: a human is waited for; some users are on the new release
  not_live     4 or 5 likewise, with no user on it
The word is in $OUTCOME and, with -o json, in the event's "outcome". A `deploy` of what is live already is unchanged, and a
wait for it is over at once.

--timeout T is for the whole script: then the line at work ends with exit 4, and what it began goes on. A line's own --timeout
is for that line. The exit code is that of the line it stopped at, else 0. With -o json each line prints one event:
{"type","seq","line","command","ok","exit","kind","items" or "error"}. -o junit prints a JUnit XML report at the end, one test
case a line, lines not reached as skipped. With --dry-run verbs say their plan; waits, expects and
sleeps are skipped."""


def config() -> str:
    """Every field of airboss.toml, from its schema."""
    from console.commands.fields import describe
    from state.config import Config

    return (
        "airboss.toml, table by table (NAME is yours; durations are 90, '90s', '5m', '1h30m'):\n\n"
        + describe(Config)
        + "\n\n`airboss config show` prints what is in effect; a wrong field is an error with its file and line."
    )


def keys() -> str:
    """The console's keys, from its registry."""
    from console.tui.keymap import GROUPS, KEYS

    parts = []
    for group, title in GROUPS.items():
        parts.append(f"{title}\n" + _pairs((key.show, key.help) for key in KEYS if key.group == group))
    return "Keys of the console; the same letter is the same verb everywhere:\n\n" + "\n\n".join(parts)


def _room(*packages: str) -> Callable[[], str]:
    """A topic that is the README of these rooms."""
    return lambda: "".join(map(_readme, packages)).lstrip("\n")


_TEXTS: dict[str, Callable[[], str]] = {
    "exit-codes": exit_codes,
    "options": options,
    "verbs": verbs,
    "roles": roles,
    "people": _room("engine.people"),
    "keys": keys,
    "console": _room("console.tui"),
    "ssh": lambda: _readme("console.tui", "SSH.md").lstrip("\n"),
    "config": config,
    "wait": wait,
    "retries": lambda: _readme("console", "RETRIES.md").lstrip("\n"),
    "scripts": scripts,
    "rollouts": rollouts,
    "strategies": lambda: _readme("engine.rollouts", "STRATEGIES.md").lstrip("\n"),
    "judge": judge,
    "rollback": _room("engine.rollouts.back"),
    "emergency": _room("console"),
    "state": _room("state"),
    "postgresql": lambda: _readme("state", "POSTGRESQL.md").lstrip("\n"),
    "pipelines": _room("engine.pipelines", "engine.pipelines.stages"),
    "comparing": _room("engine.comparing"),
    "observing": _room("engine.observe"),
    "mlflow": lambda: _readme("adapters", "MLFLOW.md").lstrip("\n"),
    "prometheus": lambda: _readme("adapters", "PROMETHEUS.md").lstrip("\n"),
    "alertmanager": lambda: _readme("adapters", "ALERTMANAGER.md").lstrip("\n"),
    "kubernetes": lambda: _readme("adapters", "KUBERNETES.md").lstrip("\n"),
    "traffic": _room("engine.gateway"),
    "routing": _room("engine.gateway.routing"),
    "access": _room("engine.gateway.access"),
    "haproxy": _room("engine.gateway.haproxy"),
    "serving": _room("engine.serving"),
    "serving-api": _room("engine.serving.front"),
    "backends": _room("engine.serving.backend"),
    "exports": _room("engine.serving.export"),
    "autoscaling": _room("engine.autoscaling"),
    "benchmarks": _room("engine.bench"),
}

TOPICS = {name: (about, _TEXTS[name]) for name, about in ABOUT.items()}


def _readme(package: str, name: str = "README.md") -> str:
    """The README, or another page, beside the code. It is in the wheel; a build that left it out is told of, not passed over."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / name
        if path.is_file():
            return "\n\n" + path.read_text(encoding="utf-8")
    return f"\n\nThe text of {package} did not come with this program."


def _pairs(rows: Any) -> str:
    found = [(str(a), str(b)) for a, b in rows]
    width = max(len(a) for a, _ in found)
    return "\n".join(f"  {a.ljust(width)}  {b}" for a, b in found)


def _columns(rows: list[Any]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
