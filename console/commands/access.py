"""`access`: who may what, and why."""

from __future__ import annotations

import click

from console.commands.requests import ViewRequest
from console.commands.tree import Noun, leaf

access = Noun(
    "access",
    help="Who may what, where, and because of which line of airboss.toml.",
    examples=(
        ("airboss access list", "the roles of each environment, and what each role may"),
        ("airboss access show", "what you may do, by the operating system's word for who you are"),
    ),
)


@leaf(
    access,
    "list",
    examples=(
        ("airboss access list --env production", "who has which role there, and the verb x role table"),
        ("airboss access list -o json", "a line an environment and role"),
    ),
)
@click.option("-e", "--env", help="In this environment.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Roles whose line has TEXT.")
def list_(env: str | None, filter_: str) -> ViewRequest:
    """Who has which role in each environment, and which role may do which verb."""
    return ViewRequest("access", filter=filter_, env=env)


@leaf(
    access,
    "show",
    examples=(
        ("airboss access show", "yourself"),
        ("airboss access show ana --env production", "another account of this host"),
    ),
)
@click.argument("user", required=False)
@click.option("-e", "--env", help="In this environment.")
def show(user: str | None, env: str | None) -> ViewRequest:
    """What an account may do, each role with its cause and each refusal with its reason."""
    return ViewRequest("access-of", env=env, args={"user": user})


@leaf(
    access,
    "can",
    examples=(
        ("airboss access can rollout.approve --env production", "exits 0 if you may, 7 if not"),
        ("airboss access can deploy --user ci", "another account, in every environment"),
    ),
)
@click.argument("verb")
@click.option("-e", "--env", help="In this environment (default: in all).")
@click.option("--user", help="Another account (default: you).")
def can(verb: str, env: str | None, user: str | None) -> ViewRequest:
    """Ask whether an account may do a verb. Exit 7 when it may not. `airboss help verbs` has their names."""
    return ViewRequest("access-of", env=env, args={"user": user, "verb": verb})
