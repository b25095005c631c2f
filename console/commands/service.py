"""`service`: the fleet, and one request to a service."""

from __future__ import annotations

import click

from console.commands.refs import name_of, ref_of
from console.commands.requests import LocalRequest, ViewRequest
from console.commands.tree import Noun, leaf

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
    "ask",
    examples=(
        ("airboss service ask chat 'To be'", "prints the answer; which release gave it goes to stderr"),
        (
            "airboss service ask chat 'To be' --seed 7 --max-tokens 40 -o json",
            "the same answer each time, with its facts",
        ),
    ),
)
@click.argument("name")
@click.argument("prompt")
@click.option("-e", "--env", help="In this environment (default: the gateway's).")
@click.option("--max-tokens", type=click.IntRange(1, 100_000), default=32, show_default=True, help="At most so many.")
@click.option("--temperature", type=click.FloatRange(0, 5), help="0 = always the likeliest.")
@click.option("--seed", type=int, help="The same seed, the same answer.")
def ask(
    name: str, prompt: str, env: str | None, max_tokens: int, temperature: float | None, seed: int | None
) -> LocalRequest:
    """Ask SERVICE one thing through the gateway, as a user would."""
    return LocalRequest(
        "console.commands.asking:ask",
        {
            "service": name_of(ref_of("service", name)),
            "prompt": prompt,
            "env": env,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        },
    )
