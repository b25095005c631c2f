"""`gateway key`: who may ask the gateway. A file verb: workers see the change within a second, engine or not."""

from __future__ import annotations

import click

from console.commands.requests import LocalRequest
from console.commands.tree import DURATION, Noun, leaf

gateway = Noun(
    "gateway",
    help="The data plane's public port.",
    examples=(("airboss gateway key list", "who may ask, and what"),),
)
key = Noun(
    "key",
    help="API keys, kept by digest in [gateway.auth] keys_file. They count once mode is 'keys' or 'any'.",
    examples=(("airboss gateway key add ci --tenant acme", "makes a key and shows it, once"),),
)
gateway.add_command(key)


@leaf(
    key,
    "add",
    acting=True,
    examples=(
        ("airboss gateway key add ci --tenant acme --class batch --service chat", "for one service, as a batch caller"),
        (
            "airboss gateway key add trial --expires 30d --rpm 60 --tpm 20000 -o name",
            "prints the key alone, for a pipe",
        ),
    ),
)
@click.argument("name")
@click.option("--tenant", default="", metavar="NAME", help="Whose it is: limits and cached answers are shared within.")
@click.option("--class", "class_", default="", metavar="CLASS", help="interactive, batch or background.")
@click.option(
    "--service", "services", multiple=True, metavar="NAME", help="Open to it; may stand often (default: all)."
)
@click.option("--expires", type=DURATION, metavar="T", help="After T, such as 90d.")
@click.option("--rpm", type=click.IntRange(0), metavar="N", help="Requests a minute, instead of [gateway.rate.key]'s.")
@click.option("--tpm", type=click.IntRange(0), metavar="N", help="Tokens a minute, likewise; 0 sets no limit.")
def add(
    name: str,
    tenant: str,
    class_: str,
    services: tuple[str, ...],
    expires: float | None,
    rpm: int | None,
    tpm: int | None,
) -> LocalRequest:
    """Make a key and show it. It is shown once and kept nowhere; the file has its digest."""
    fields = {
        "tenant": tenant,
        "class": class_,
        "services": services,
        "expires_s": expires,
        "requests_per_minute": rpm,
        "tokens_per_minute": tpm,
    }
    return LocalRequest("console.commands.keys:add", {"name": name, "fields": fields})


@leaf(key, "list", examples=(("airboss gateway key list -o json", "for a program; without digests"),))
def list_() -> LocalRequest:
    """The keys: name, tenant, class, services, expiry, limits."""
    return LocalRequest("console.commands.keys:list_")


@leaf(
    key, "revoke", acting=True, examples=(("airboss gateway key revoke ci --yes", "refused from the next second on"),)
)
@click.argument("name")
def revoke(name: str) -> LocalRequest:
    """Take a key out of the file. Requests under way end as they would."""
    return LocalRequest("console.commands.keys:revoke", {"name": name})
