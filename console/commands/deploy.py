"""`deploy` and `rollback`: the two verbs hands reach for first."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import name_of, ref_of, verb_request
from console.commands.requests import LocalRequest
from console.commands.tree import break_glass, leaf
from state.words import Strategy, UsageError


def steps_of(text: str | None) -> list[int | str] | None:
    """`5,25,50` → [5, 25, 50, 100]; `mirror=10,5,pause=10m,50` → the same words, which the engine reads. Raises UsageError."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if any("=" in part or part == "analysis" for part in parts):
        return [int(part) if part.isdigit() else part for part in parts]
    try:
        weights = [int(part.removesuffix("%")) for part in parts]
    except ValueError:
        weights = []
    if not weights or weights != sorted(set(weights)) or weights[0] < 1 or weights[-1] > 100:
        raise UsageError(f"--steps {text}: not rising whole percents of 1-100", hint="for example --steps 5,25,50")
    return [*weights] if weights[-1] == 100 else [*weights, 100]


@leaf(
    None,
    "deploy",
    acting=True,
    examples=(
        ("airboss deploy chat charlm-3 --env production --dry-run", "the plan, nothing else"),
        (
            "airboss deploy chat charlm-3 --env production --yes --confirm-name chat --wait --timeout 30m",
            "as a script does it: exits 0 when it is live, 8 when the judge said no, 5 when a human is waited for",
        ),
        ("airboss deploy chat charlm-3 -e dev --strategy rolling", "another strategy than the policy's"),
        ("airboss deploy chat charlm-4 -e dev --supersede ro-7 --yes", "while ro-7 moves: it goes back first"),
        (
            "airboss deploy chat charlm-4 -e production --hotfix --reason 'charlm-3 crashes' --yes --confirm-name chat",
            "stable does not answer: all traffic at once, judged by the objective alone",
        ),
        (
            "airboss deploy chat charlm-3 -e production --steps mirror=10,5,25,pause=10m,50 --dry-run",
            "other steps: copies first, then weights with a pause between them",
        ),
    ),
)
@click.argument("service")
@click.argument("release")
@click.option("-e", "--env", help="Where (needed where the workspace has several).")
@click.option("--strategy", type=click.Choice([s.value for s in Strategy]), help="Another strategy than the policy's.")
@click.option(
    "--steps", metavar="5,25,50", help="Other steps than the policy's: weights, or mirror=, pause=, header=, …"
)
@click.option(
    "--force",
    is_flag=True,
    help="Also a release with a fault set, one that was rejected, or one that its clients cannot use.",
)
@click.option("--supersede", metavar="ROLLOUT", help="Give this active rollout up for it: back to stable, then this.")
@click.option("--hotfix", is_flag=True, help="Stable is bad itself: all traffic at once, judged alone. With --reason.")
@break_glass
def deploy(
    service: str,
    release: str,
    env: str | None,
    strategy: str | None,
    steps: str | None,
    force: bool,
    supersede: str | None,
    hotfix: bool,
    break_glass: bool,
) -> Any:
    """Roll RELEASE out for SERVICE, by its environment's policy.

    A canary gets its first share of traffic once its replicas answer, and more of it only on evidence.
    """
    return verb_request(
        "deploy",
        ref_of("service", service),
        release=name_of(ref_of("release", release)),
        env=env,
        strategy=strategy,
        steps=steps_of(steps),
        force=force or None,
        break_glass=break_glass,
        supersede=supersede,
        hotfix=hotfix or None,
    )


@leaf(
    None,
    "rollback",
    acting=True,
    examples=(
        ("airboss rollback chat", "shows the plan, asks y"),
        ("airboss rollback chat --env production --yes --reason 'answers are empty' --wait", "as a script does it"),
        ("airboss rollback chat --to charlm-1 --yes", "to an older release that was verified here"),
        (
            "airboss rollback chat --env production --emergency",
            "with no engine: straight through the gateway, or in the cluster",
        ),
    ),
)
@click.argument("service")
@click.option("-e", "--env", help="Where (needed where the workspace has several).")
@click.option("--to", metavar="RELEASE", help="A release that was verified here (default: the last good one).")
@click.option(
    "--emergency", is_flag=True, help="Without the engine: apply the kept plan through the gateway, or in the cluster."
)
@click.option("--force", is_flag=True, help="With --emergency: even though an engine answers.")
def rollback(service: str, env: str | None, to: str | None, emergency: bool, force: bool) -> Any:
    """Return SERVICE to its last good release. Works from every state; needs no approval.

    The target is the active rollout's stable release, else the last one that was verified and not rejected.
    """
    if emergency:
        if to is not None:
            raise UsageError(
                "--emergency applies the plan that is kept ready; it takes no --to",
                hint="leave --to out, or start the engine and roll back through it",
            )
        return LocalRequest(
            "console.emergency:run", {"service": name_of(ref_of("service", service)), "env": env, "force": force}
        )
    if force:
        raise UsageError("--force here belongs to --emergency", hint="a rollback needs no force")
    target = service if service.startswith("rollout/") else ref_of("service", service)
    return verb_request("rollback", target, env=env, to=name_of(ref_of("release", to)) if to else None)
