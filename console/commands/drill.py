"""`drill`: failures on purpose, with the real verbs on real processes, measured and recorded."""

from __future__ import annotations

import click

from console.commands.refs import ref_of, verb_request
from console.commands.requests import LocalRequest
from console.commands.tree import DURATION, Noun, leaf
from console.drills.catalogue import DRILLS, Drill

drill = Noun(
    "drill",
    help="Failures on purpose on a live service: what happens is real, is measured, and stays in the audit log.",
    examples=(
        ("airboss drill list", "each drill, when it was played last, what it measured"),
        ("airboss drill rollback chat --env staging --yes", "seconds from the request to the last user of a release"),
        (
            "airboss drill kill chat --env production --confirm-name chat --reason 'game day'",
            "a protected environment wants the service's name and a reason",
        ),
    ),
)


@leaf(drill, "list", examples=(("airboss drill list -o json", "for a program"),))
def list_() -> LocalRequest:
    """The drills there are, and how each went last."""
    return LocalRequest("console.drills.playing:listing")


def _add(one: Drill) -> None:
    @click.argument("service")
    @click.option("-e", "--env", help="Where (needed where the service is live in several).")
    @click.option("--target", "target_s", type=DURATION, metavar="T", help=f"Its limit (default {one.target_s:g}s).")
    def play(service: str, env: str | None, target_s: float | None) -> LocalRequest:
        request = verb_request("drill.start", ref_of("service", service), env=env, name=one.name, twin=one.twin or None)
        return LocalRequest("console.drills.playing:play", {"name": one.name, "request": request, "target_s": target_s})

    play.__doc__ = (
        f"{one.about[:1].upper()}{one.about[1:]}.\n\nMeasures {one.measures}. Exits 8 when {one.key} is over the target, or a "
        "user was harmed who must not be; 1 when it came to no end."
    )
    example = (f"airboss drill {one.name} chat --env staging --yes", one.about)
    leaf(drill, one.name, acting=True, examples=(example,))(play)


for _one in DRILLS.values():
    _add(_one)
