"""`=`, `S`, `s` and `Y`: a comparison, the scale menu, a shell, and lines for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console.commands.grammar import parse_args
from console.tui.acts import Refused
from console.tui.scale_choices import scale_choices
from console.tui.script_lines import show_line
from console.tui.side_app import shell_of
from console.tui.side_by_side import differences, pair_of


async def test_equals_on_one_release_and_then_another_shows_what_differs(desk: Any) -> None:
    async with desk() as d:
        await d.press("4", "equals_sign")
        await d.shows("charlm-2 · now = on another release")
        await d.press("down", "equals_sign")
        await d.shows("charlm-2 → charlm-1", "steps", "1200", "600", "val_loss", "are the same", "airboss release diff")
        assert "git commit" not in d.text, "what is the same is not shown"
        await d.press("escape")
        await d.shows("charlm-1", "charlm-2")


async def test_equals_on_a_rollout_compares_from_and_to(desk: Any) -> None:
    async with desk() as d:
        await d.press("2", "equals_sign")
        await d.shows("charlm-1 → charlm-2", "bits_per_char")


async def test_equals_where_there_is_nothing_to_compare_says_so(desk: Any) -> None:
    async with desk() as d:
        await d.press("2", "end", "equals_sign")
        await d.shows("replaces nothing")


async def test_capital_s_opens_a_menu_and_w_asks_for_a_weight_then_for_the_name(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("2", "S")
        await d.shows("scale and traffic", "set the canary's weight", "hold: stop all", "says what the load needs")
        await d.pilot.pause(0.5)
        await d.press("w", "4", "0", "enter")
        await d.shows("airboss rollout weight ro-2 40", "--confirm-name chat")
        assert engine.done == [], "the menu itself changes nothing"


@pytest.mark.parametrize(("number", "verb", "line"), [
    ("3", "service.scale", "service scale chat --env production --replicas 3 --yes"),
    ("1", "service.scale_down", "--replicas 1 --down --yes --confirm-name chat"),
])  # fmt: skip
async def test_capital_s_and_n_asks_how_many_and_fewer_takes_the_name(
    desk: Any, engine: Any, number: str, verb: str, line: str
) -> None:
    async with desk() as d:
        await d.press("1", "S")
        await d.shows("how many replicas… (now 2)")
        await d.pilot.pause(0.5)
        await d.press("n", number, "enter")
        await d.shows(line)
        if verb == "service.scale":
            await d.pilot.pause(0.5)
            await d.press("y")
            await d.until(lambda: [(v.verb, v.args["replicas"]) for v in engine.done] == [(verb, 3)])


async def test_capital_s_and_a_digit_restarts_a_replica_after_a_panel(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("1", "S")
        await d.shows("restart ")
        await d.pilot.pause(0.5)
        await d.press("1")
        await d.shows("airboss service restart chat m-99ff0011 --env production --yes")
        await d.pilot.pause(0.5)
        await d.press("y")
        await d.until(lambda: [v.verb for v in engine.done] == ["service.restart"])


async def test_capital_s_is_refused_where_no_verb_may_run(desk: Any) -> None:
    async with desk(read_only=True) as d:
        await d.press("S")
        await d.shows("S: this console is read-only")


async def test_capital_y_copies_the_line_that_shows_it(desk: Any) -> None:
    async with desk() as d:
        for view, line in (("1", "airboss service show chat --env production"), ("2", "airboss rollout show ro-2"),
                           ("4", "airboss release show charlm-2"), ("6", "airboss alert list --all")):  # fmt: skip
            await d.press(view, "Y")
            await d.shows(f"copied {line}")
            assert d.app.clipboard == line


def test_every_line_that_is_copied_is_in_the_grammar(world: Any) -> None:
    snapshot = world.snapshot()
    things = [*snapshot.fleet, *snapshot.rollouts, *snapshot.runs, *snapshot.releases, *snapshot.alerts, *snapshot.slos,
              *snapshot.serving, *snapshot.audit]  # fmt: skip
    assert things
    for thing in things:
        words = show_line(thing).split()
        assert words[0] == "airboss"
        parse_args(words[1:])


async def test_a_terminal_that_cannot_be_given_away_says_so(desk: Any) -> None:
    async with desk() as d:
        await d.press("s")
        await d.shows("cannot be given to a shell")


def test_the_shell_knows_the_object_and_stays_read_only(world: Any, tmp_path: Path) -> None:
    words, more, where = shell_of(world.rollout(), None, {"SHELL": "/bin/zsh"}, read_only=True)
    assert words == ["/bin/zsh"] and where == ""
    assert (
        more["AIRBOSS_REF"] == "rollout/ro-2" and more["AIRBOSS_SERVICE"] == "chat" and more["AIRBOSS_READ_ONLY"] == "1"
    )
    assert shell_of(None, None, {}, read_only=False)[1] == {}


def test_the_menu_says_why_not(world: Any) -> None:
    snapshot = world.snapshot()
    done = next(r for r in snapshot.rollouts if r.from_release is None)
    assert isinstance(pair_of(done, snapshot), str)
    assert isinstance(scale_choices(snapshot.releases[0], snapshot), Refused)
    alone = snapshot.model_copy(
        update={"rollouts": (), "fleet": (snapshot.fleet[0].model_copy(update={"rollout_id": None}),)}
    )
    choices = scale_choices(alone.fleet[0], alone)
    assert not isinstance(choices, Refused)
    weight = next(c for c in choices if c.key == "w").choice
    assert isinstance(weight, Refused) and "all traffic is stable's" in weight.reason


def test_differences_are_fields_and_only_those(world: Any) -> None:
    one, two = world.release(1), world.release(2)
    found = {(part, name): (a, b) for part, name, a, b in differences(one, two)}
    assert found["parameters", "steps"] == ("600", "1200")
    assert ("parameters", "model.n_layer") not in found
    assert differences(one, one) == []


def test_a_shell_in_a_real_terminal_and_back(engine: Any, tmp_path: Path) -> None:
    from test_tui_pty import Terminal

    marker = tmp_path / "said.json"
    fake = tmp_path / "sh"
    fake.write_text(f"#!/bin/sh\nenv | grep ^AIRBOSS_REF= > {marker}\necho in the shell; read answer; exit 3\n")
    fake.chmod(0o755)
    t = Terminal(engine.socket_path, env={"SHELL": str(fake)})
    try:
        # Each wait is for a process that starts, on a machine that may be busy.
        t.until(lambda: "? help" in t.text and "chat" in t.text, 60)
        t.send("s")
        t.until(lambda: "`exit` comes back" in t.text and "in the shell" in t.text, 60)
        t.send("q\r")
        t.until(lambda: "back from the shell, which ended with 3" in t.text and "? help" in t.text, 60)
        assert marker.read_text() == "AIRBOSS_REF=service/chat\n"
        t.send("q")
        assert t.exit_code(30) == 0
    finally:
        t.close()
