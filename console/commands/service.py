"""`service`: the fleet, and one request to a service."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import name_of, ref_of, verb_request
from console.commands.requests import LocalRequest, ViewRequest
from console.commands.tree import DURATION, Noun, leaf


class _Replicas(click.ParamType[int | str]):
    """A number of replicas, or `auto`."""

    name = "replicas"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """`auto` as it is, anything else as a number from 1."""
        return "auto" if value == "auto" else int(click.IntRange(1, 64).convert(value, param, ctx))


REPLICAS = _Replicas()
service = Noun(
    "service",
    help="Named model endpoints that users call.",
    examples=(
        ("airboss service list", "the fleet: release, weights, rate, errors, budget"),
        ("airboss service ask chat 'Once upon'", "one request through the gateway"),
    ),
)


@leaf(service, "list", examples=(("airboss fleet @production", "one environment"),))
@click.option("-e", "--env", help="In this environment.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(env: str | None, filter_: str) -> ViewRequest:
    """Services by environment."""
    return ViewRequest("fleet", filter=filter_, env=env)


@leaf(service, "show", examples=(("airboss service show chat --env production", "its tracks and replicas"),))
@click.argument("name")
@click.option("-e", "--env", help="In this environment (default: each).")
def show(name: str, env: str | None) -> ViewRequest:
    """One service: what each track serves and gets, and the processes behind it."""
    return ViewRequest("service", env=env, ref=ref_of("service", name))


@leaf(service, "replicas", examples=(("airboss replicas", "every gateway worker and model server"),))
@click.option("-e", "--env", help="In this environment.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def replicas(env: str | None, filter_: str) -> ViewRequest:
    """Processes that serve."""
    return ViewRequest("serving", filter=filter_, env=env)


@leaf(
    service,
    "capacity",
    examples=(
        ("airboss service capacity chat --env production", "what the load of the last five minutes needs"),
        ("airboss service capacity chat --window 1h -o json", "of the last hour, for a program"),
    ),
)
@click.argument("name")
@click.option("-e", "--env", help="In this environment (default: each where it is served).")
@click.option("--window", type=DURATION, default=300.0, metavar="T", help="Measured over T, at most 1h (default: 5m).")
def capacity(name: str, env: str | None, window: float) -> ViewRequest:
    """How much SERVICE could take: arrival rate, time in service, and by Little's law the replicas that the load needs.

    Measured at the replicas by the engine. Headroom supposes that a replica stays as fast when more is going on in it.
    """
    return ViewRequest("capacity", env=env, ref=ref_of("service", name), args={"window_s": window})


@leaf(
    service,
    "scale",
    acting=True,
    examples=(
        ("airboss service scale chat --env production --replicas 3 --for 2h --yes", "as before after two hours"),
        ("airboss service scale chat --env production --replicas 1 --down --yes --confirm-name chat", "fewer"),
        ("airboss service scale chat --env production --replicas auto --yes", "as airboss.toml or its autoscaler says"),
        ("airboss service scale chat --env production --replicas 4 --dry-run", "what it would change"),
    ),
)
@click.argument("name")
@click.option("--replicas", required=True, type=REPLICAS, metavar="N|auto", help="So many; auto: as the file says.")
@click.option("-e", "--env", help="In this environment (needed where there are several).")
@click.option("--for", "for_s", type=DURATION, metavar="T", help="For so long (2h); otherwise until it is taken back.")
@click.option("--down", is_flag=True, help="Also fewer than there are now; the name confirms.")
@click.option("--force", is_flag=True, help="Also where memory has no room for them.")
def scale(name: str, replicas: int | str, env: str | None, for_s: float | None, down: bool, force: bool) -> Any:
    """Have so many replicas of what SERVICE serves: local processes, or pods.

    An autoscaler stands aside while a number of a hand holds. Nothing that a rollout or the way back counts on is taken away.
    """
    verb = "service.scale_down" if down else "service.scale"
    return verb_request(verb, ref_of("service", name), replicas=replicas, env=env, for_s=for_s, force=force or None)


@leaf(
    service,
    "restart",
    acting=True,
    examples=(
        ("airboss service restart chat m-7a2b --env production --yes", "a sick replica; its streams finish first"),
        ("airboss service restart chat m-7a2b --env production --dry-run", "which process it would be"),
    ),
)
@click.argument("name")
@click.argument("replica")
@click.option("-e", "--env", help="In this environment (needed where there are several).")
@click.option("--force", is_flag=True, help="Also the only one that answers: nobody does until the new one is up.")
def restart(name: str, replica: str, env: str | None, force: bool) -> Any:
    """End REPLICA of SERVICE gently and start another in its place. A beginning of its id is enough.

    It is out of the routing table before it refuses anything, and it counts as no death: a crash loop is something else.
    """
    return verb_request("service.restart", ref_of("service", name), replica=replica, force=force or None, env=env)


@leaf(
    service,
    "logs",
    examples=(
        ("airboss service logs chat", "the last lines of each replica, those that ended too"),
        ("airboss service logs chat m-7a2b --tail 500", "one replica's"),
    ),
)
@click.argument("name")
@click.argument("replica", required=False)
@click.option("-e", "--env", help="In this environment.")
@click.option(
    "--tail", type=click.IntRange(1, 100_000), default=50, show_default=True, metavar="N", help="Lines of each."
)
def logs(name: str, replica: str | None, env: str | None, tail: int) -> ViewRequest:
    """What the replicas of SERVICE wrote: the living ones, and the last that ended, newest first.

    Of a pod also what its container before wrote, where one ended, and the cluster's events of it.
    """
    return ViewRequest("service-logs", env=env, ref=ref_of("service", name), args={"replica": replica, "tail": tail})


@leaf(
    service,
    "ask",
    examples=(
        ("airboss service ask chat 'To be'", "prints the answer; which release gave it goes to stderr"),
        (
            "airboss service ask chat 'To be' --seed 7 --max-tokens 40 -o json",
            "the same answer each time, with its facts",
        ),
        ("airboss service ask chat 'To be' --env production --track canary", "past the gateway, to the canary"),
        ("airboss service ask chat 'To be' --env production --replica m-7a", "to one replica, say a sick one"),
    ),
)
@click.argument("name")
@click.argument("prompt")
@click.option("-e", "--env", help="In this environment (default: the gateway's).")
@click.option("--max-tokens", type=click.IntRange(1, 100_000), default=32, show_default=True, help="At most so many.")
@click.option("--temperature", type=click.FloatRange(0, 5), help="0 = always the likeliest.")
@click.option("--seed", type=int, help="The same seed, the same answer.")
@click.option(
    "--track", default="", metavar="TRACK", help="Of this track (stable, canary, shadow), whatever its weight."
)
@click.option("--release", default="", metavar="RELEASE", help="Of this release.")
@click.option("--replica", default="", metavar="ID", help="This replica; a beginning of its id is enough.")
def ask(
    name: str,
    prompt: str,
    env: str | None,
    max_tokens: int,
    temperature: float | None,
    seed: int | None,
    track: str,
    release: str,
    replica: str,
) -> LocalRequest:
    """Ask SERVICE one thing through the gateway, as a user would.

    With a track, a release or a replica the engine asks that one itself: such a request counts for no judge and no objective.
    """
    whom = {k: v for k, v in (("track", track), ("release", release), ("replica", replica)) if v}
    if len(whom) > 1:
        raise click.UsageError(f"--{' and --'.join(whom)}: one is enough")
    return LocalRequest(
        "console.commands.asking:ask",
        {
            "service": name_of(ref_of("service", name)),
            "prompt": prompt,
            "env": env,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            **({"whom": whom} if whom else {}),
        },
    )
