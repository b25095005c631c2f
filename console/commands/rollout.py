"""`rollout`: what moves a release through an environment."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import moment_of, ref_of, seconds_until, verb_request
from console.commands.requests import ViewRequest
from console.commands.tree import Noun, break_glass, leaf
from state.words import UsageError

rollout = Noun(
    "rollout",
    help="Moving one service in one environment from one release to another.",
    examples=(
        ("airboss rollout list --active", "what moves now"),
        ("airboss rollout show ro-3 --watch", "each change of it, until it ends"),
        ("airboss rollout promote ro-3 --yes", "go to the next step"),
    ),
)


@leaf(
    rollout,
    "list",
    examples=(
        ("airboss rollout list --env production --active", "what moves in production"),
        ("airboss rollouts -o json", "the same, all of it, as JSON"),
    ),
)
@click.option("--service", help="Of this service.")
@click.option("-e", "--env", help="In this environment.")
@click.option("--active", is_flag=True, help="Only those that have not ended.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
@click.option("--watch", is_flag=True, help="Go on: a line for each change (JSON lines under -o json).")
def list_(service: str | None, env: str | None, active: bool, filter_: str, watch: bool) -> ViewRequest:
    """Rollouts, newest first."""
    return ViewRequest("rollouts", filter=filter_, env=env, args={"service": service, "active": active, "watch": watch})


@leaf(
    rollout,
    "show",
    examples=(
        ("airboss rollout show ro-3", "steps, weights, both arms, the verdict in words"),
        ("airboss rollout show ro-3 --watch -o json", "a JSON line for each change, until it ends"),
    ),
)
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--watch", is_flag=True, help="Go on until it ends: a line for each change.")
def show(rollout_id: str, watch: bool) -> ViewRequest:
    """One rollout, whole."""
    return ViewRequest("rollout", ref=ref_of("rollout", rollout_id), args={"watch": watch})


@leaf(
    rollout,
    "why",
    examples=(
        ("airboss rollout why ro-3", "what it waits for, in a sentence"),
        ("airboss rollout why ro-3 -o json", "the same, with state and pause_reason"),
    ),
)
@click.argument("rollout_id", metavar="ROLLOUT")
def why(rollout_id: str) -> ViewRequest:
    """Why it is not moving, and what a person can do about it."""
    return ViewRequest("why", ref=ref_of("rollout", rollout_id))


@leaf(
    rollout,
    "promote",
    acting=True,
    examples=(
        ("airboss rollout promote ro-3 --yes", "the next step, without the rest of this one's evidence"),
        ("airboss rollout promote ro-3 --full --yes --confirm-name chat --reason 'fixes the outage'", "100 % at once"),
    ),
)
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--full", is_flag=True, help="To 100 % at once, skipping gates (name and reason needed).")
@break_glass
def promote(rollout_id: str, full: bool, break_glass: bool) -> Any:
    """Go to the next step now."""
    verb = "rollout.promote_full" if full else "rollout.promote"
    return verb_request(verb, ref_of("rollout", rollout_id), break_glass=break_glass)


def _simple(name: str, verb: str, text: str, *examples: tuple[str, str]) -> None:
    @leaf(rollout, name, acting=True, examples=examples)
    @click.argument("rollout_id", metavar="ROLLOUT")
    def act(rollout_id: str) -> Any:
        return verb_request(verb, ref_of("rollout", rollout_id))

    act.help = text


def _breakable(name: str, verb: str, text: str, *examples: tuple[str, str]) -> None:
    @leaf(rollout, name, acting=True, examples=examples)
    @click.argument("rollout_id", metavar="ROLLOUT")
    @break_glass
    def act(rollout_id: str, break_glass: bool) -> Any:
        return verb_request(verb, ref_of("rollout", rollout_id), break_glass=break_glass)

    act.help = text


_simple(
    "pause",
    "rollout.pause",
    "Stand still at this weight.",
    ("airboss rollout pause ro-3 --reason 'looking'", "asks nothing"),
)
_breakable("resume", "rollout.resume", "Go on.", ("airboss rollout resume ro-3 --yes", "judged from here on"))
_simple(
    "abort",
    "rollout.abort",
    "Give the rollout up: all traffic returns to stable.",
    ("airboss rollout abort ro-3 --yes --reason 'wrong release' --wait", "waits until stable has it all"),
)
_simple(
    "adopt",
    "rollout.adopt",
    "Accept the weights that somebody else has set, and go on from there. For a rollout that is stuck or paused(drift).",
    ("airboss rollout adopt ro-3 --dry-run", "what it meant, what is there, and how it would go on"),
    ("airboss rollout adopt ro-3 --yes --confirm-name chat --reason 'set by hand during incident 12'", "goes on"),
)
_breakable(
    "retry",
    "rollout.retry",
    "Roll the same release out again, after it failed.",
    ("airboss rollout retry ro-3 --yes --confirm-name chat", "a new rollout of the same release"),
)


@leaf(
    rollout,
    "approve",
    acting=True,
    examples=(
        ("airboss rollout approve ro-3 --yes --reason 'evals look good'", "as an approver, not the one who began it"),
        ("airboss rollout approve ro-3 --plan 9f2c41d07ab1 --yes", "only if the plan is still that one"),
        (
            "airboss rollout approve ro-3 --break-glass --yes --confirm-name chat --reason 'incident 12, nobody is awake'",
            "one person in place of all that are asked; flagged until somebody else acknowledges it",
        ),
    ),
)
@click.argument("rollout_id", metavar="ROLLOUT")
@click.option("--plan", metavar="HASH", help="Refuse (exit 6) unless its plan's hash begins so.")
@break_glass
def approve(rollout_id: str, plan: str | None, break_glass: bool) -> Any:
    """Approve a rollout that waits for it: its plan as it stands now. A plan that changes must be approved again."""
    return verb_request("rollout.approve", ref_of("rollout", rollout_id), plan=plan, break_glass=break_glass)


_simple(
    "reject",
    "rollout.reject",
    "Refuse a rollout that waits for an approval.",
    ("airboss rollout reject ro-3 --yes --reason 'not on Friday'", "it is cancelled"),
)


@leaf(
    rollout,
    "weight",
    acting=True,
    examples=(("airboss rollout weight ro-3 40 --yes --confirm-name chat", "40 % to the canary"),),
)
@click.argument("rollout_id", metavar="ROLLOUT")
@click.argument("weight", metavar="PERCENT", type=click.IntRange(0, 100))
@break_glass
def weight_(rollout_id: str, weight: int, break_glass: bool) -> Any:
    """Set the canary's weight by hand."""
    return verb_request("rollout.weight", ref_of("rollout", rollout_id), weight=weight, break_glass=break_glass)


def _held(what: str, env: str | None) -> str:
    """`hold` is the service's; a rollout may stand for it."""
    if what.startswith("rollout/"):
        if env is not None:
            raise UsageError("a rollout has its environment; leave --env out", hint=f"airboss rollout hold {what}")
        return ref_of("rollout", what)
    return ref_of("service", what)


@leaf(
    rollout,
    "hold",
    acting=True,
    examples=(
        (
            "airboss rollout hold chat --env production --until 2h --reason 'incident 12'",
            "no automatic movement, either way",
        ),
        ("airboss rollout hold rollout/ro-3", "the service of that rollout, for 30 minutes"),
    ),
)
@click.argument("what", metavar="SERVICE|rollout/ID")
@click.option("-e", "--env", help="Where.")
@click.option("--until", default="30m", metavar="T", help="A duration or a time (default: 30m).")
def hold(what: str, env: str | None, until: str) -> Any:
    """Stop all automatic movement of a service, forward or back, for a while."""
    return verb_request("hold", _held(what, env), env=env, until_s=seconds_until(until), until=moment_of(until))


@leaf(
    rollout,
    "unhold",
    acting=True,
    examples=(("airboss rollout unhold chat --env production --yes", "movement goes on"),),
)
@click.argument("what", metavar="SERVICE|rollout/ID")
@click.option("-e", "--env", help="Where.")
def unhold(what: str, env: str | None) -> Any:
    """Let automatic movement go on."""
    return verb_request("unhold", _held(what, env), env=env)
