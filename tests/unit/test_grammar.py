"""The grammar: words become requests, or a sentence that says what is wrong."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.commands.grammar import HelpWanted, LocalRequest, ViewRequest, parse_args, parse_line, root
from console.commands.tree import Leaf, Noun
from console.drills.catalogue import VERBS_USED
from engine.api.schemas import VerbRequest
from engine.verbs import VERBS
from state.words import AirbossError, UsageError

LINES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("deploy chat charlm-3 --env dev", "deploy", "service/chat", {"release": "charlm-3", "env": "dev"}),
    ("deploy chat charlm-3 -e dev --steps 5,25 --strategy rolling --force", "deploy", "service/chat",
     {"release": "charlm-3", "env": "dev", "strategy": "rolling", "steps": [5, 25, 100], "force": True}),
    ("rollback chat", "rollback", "service/chat", {}),
    ("rollback service/chat --to charlm-1 --env dev", "rollback", "service/chat", {"to": "charlm-1", "env": "dev"}),
    ("rollback rollout/ro-3", "rollback", "rollout/ro-3", {}),
    ("release stage charlm-3 archived", "release.stage", "release/charlm-3", {"stage": "archived"}),
    ("release import /srv/charlm-3 --as eu-3", "release.import", "engine/engine", {"path": "/srv/charlm-3", "name": "eu-3"}),
    ("registry import support-bot@champion --service chat", "registry.import", "service/chat",
     {"model": "support-bot", "version": "@champion"}),
    ("rollout promote ro-3", "rollout.promote", "rollout/ro-3", {}),
    ("rollout promote ro-3 --full", "rollout.promote_full", "rollout/ro-3", {}),
    ("rollout weight rollout/ro-3 40", "rollout.weight", "rollout/ro-3", {"weight": 40}),
    ("rollout pause ro-3", "rollout.pause", "rollout/ro-3", {}),
    ("rollout resume ro-3", "rollout.resume", "rollout/ro-3", {}),
    ("rollout abort ro-3", "rollout.abort", "rollout/ro-3", {}),
    ("rollout retry ro-3", "rollout.retry", "rollout/ro-3", {}),
    ("rollout adopt ro-3", "rollout.adopt", "rollout/ro-3", {}),
    ("rollout approve ro-3", "rollout.approve", "rollout/ro-3", {}),
    ("rollout reject ro-3", "rollout.reject", "rollout/ro-3", {}),
    ("rollout hold chat --env dev --until 2h", "hold", "service/chat", {"env": "dev", "until_s": 7200.0}),
    ("rollout unhold chat --env dev", "unhold", "service/chat", {"env": "dev"}),
    ("config apply", "config.apply", "engine/engine", {}),
    ("hook test chatops", "hook.test", "hook/chatops", {}),
    ("dataset build corrections --from-feedback --service chat --release charlm-2 --since 30d", "dataset.build", "dataset/corrections",
     {"service": "chat", "releases": ["charlm-2"], "since_s": 2_592_000.0}),
    ("trigger pause charlm.nightly", "trigger.pause", "trigger/charlm.nightly", {}),
    ("trigger approve charlm.drift", "trigger.approve", "trigger/charlm.drift", {}),
    ("trigger resume charlm.nightly", "trigger.resume", "trigger/charlm.nightly", {}),
    ("hook redeliver 12", "hook.redeliver", "delivery/12", {}),
    ("break-glass ack 3", "glass.ack", "glass/3", {}),
    ("freeze start --env dev --until 90s", "freeze.start", "env/dev", {"env": "dev", "until_s": 90.0}),
    ("freeze end --env dev", "freeze.end", "env/dev", {"env": "dev"}),
    ("state adopt chat --env dev", "state.adopt", "service/chat", {"env": "dev"}),
    ("state enforce service/chat", "state.enforce", "service/chat", {}),
    ("pipeline run charlm --set train.steps=5 --set collect.text=x.txt --from train --force", "pipeline.run",
     "pipeline/charlm", {"set": {"train.steps": 5, "collect.text": "x.txt"}, "from_stage": "train", "force": True}),
    ("run cancel run-4", "run.cancel", "run/run-4", {}),
    ("run retry run-4", "run.retry", "run/run-4", {}),
    ("alert ack 3", "alert.ack", "alert/3", {}),
    ("alert silence 3 --for 90m", "alert.silence", "alert/3", {"minutes": 90}),
    ("alert unsilence 2", "alert.unsilence", "silence/2", {}),
    ("service restart chat m-7a --env dev --force", "service.restart", "service/chat",
     {"replica": "m-7a", "env": "dev", "force": True}),
    ("service scale chat --env dev --replicas 3 --for 2h", "service.scale", "service/chat",
     {"replicas": 3, "env": "dev", "for_s": 7200.0}),
    ("service scale chat --env dev --replicas auto --down --force", "service.scale_down", "service/chat",
     {"replicas": "auto", "env": "dev", "force": True}),
    ("note rollout/ro-3 'slow index'", "note", "rollout/ro-3", {"text": "slow index"}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "verb", "ref", "args"), LINES, ids=[line[0] for line in LINES])
def test_a_line_becomes_its_verb(line: str, verb: str, ref: str, args: dict[str, Any]) -> None:
    request = parse_line(line)
    assert isinstance(request, VerbRequest)
    assert (request.verb, request.ref, request.args) == (verb, ref, args)


def test_every_verb_of_the_table_has_a_line() -> None:
    spoken = {verb for _, verb, _, _ in LINES}
    for words in (["down"], ["down", "--all"]):
        request = parse_args(words).request
        assert isinstance(request, LocalRequest)
        spoken.add(request.args["request"].verb)
    assert spoken | set(VERBS_USED) == set(VERBS)


@pytest.mark.parametrize(
    ("line", "view", "env", "filter"),
    [
        ("rollouts", "rollouts", None, ""),
        ("rollouts @production /chat", "rollouts", "production", "chat"),
        ("fleet @dev", "fleet", "dev", ""),
        ("alerts /disk", "alerts", None, "disk"),
        ("audit", "audit", None, ""),
        ("audit @dev", "audit", "dev", ""),
        ("rollout list --env dev --filter x", "rollouts", "dev", "x"),
        ("airboss status", "status", None, ""),
    ],
)
def test_a_line_becomes_its_view(line: str, view: str, env: str | None, filter: str) -> None:
    request = parse_line(line)
    assert isinstance(request, ViewRequest)
    assert (request.view, request.env, request.filter) == (view, env, filter)


@pytest.mark.parametrize(
    "words", [["-o", "json", "rollout", "list"], ["rollout", "-o", "json", "list"], ["rollout", "list", "-ojson"]]
)
def test_global_options_may_stand_anywhere(words: list[str]) -> None:
    assert parse_args(words).options.output == "json"


def test_options_of_the_engine_travel_in_the_request() -> None:
    request = parse_line(
        "rollout promote ro-3 --yes --confirm-name chat --reason 'why not' --dry-run --expect-revision 7"
    )
    assert isinstance(request, VerbRequest)
    assert (request.yes, request.confirm_name, request.reason, request.dry_run, request.expect_revision) == (
        True, "chat", "why not", True, 7)  # fmt: skip


def test_a_bare_wait_never_takes_the_next_word() -> None:
    parsed = parse_args(["deploy", "--wait", "chat", "charlm-3", "--env", "dev"])
    assert isinstance(parsed.request, VerbRequest)
    assert (parsed.options.wait, parsed.request.ref) == ("done", "service/chat")
    assert parse_args(["rollback", "chat", "--wait=paused"]).options.wait == "paused"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "an empty line"),
        ("rolout list", "no command 'rolout'; did you mean rollout"),
        ("rollout", "which of its verbs? list, show, why, promote"),
        ("rollout promote", "missing argument 'ROLLOUT'"),
        ("rollout promote run/run-4", "is a run; this wants a rollout"),
        ("rollout weight ro-3 140", "140 is not in the range 0<=x<=100"),
        ("deploy chat charlm-3 --steps 50,5", "not rising whole percents"),
        ("freeze start --env dev --until yesterday", "neither a duration nor a time"),
        ("freeze start --env dev --until 2020-01-01T00:00Z", "in the past"),
        ("rollback chat --emergency --to charlm-1", "takes no --to"),
        ("alert silence 3 --for soon", "'soon' is not a duration"),
        ("note rollout/ro-3 ' '", "an empty note"),
        ("note 'a b' text", "is no reference"),
        ("run show 'run-4", "cannot be split"),
        ("demo", "does its work in a shell"),
        ("rollback chat --emergency", "does its work in a shell"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_line(line)
    assert says.casefold() in caught.value.message.casefold()
    assert caught.value.exit == 2


def test_help_is_a_value_and_is_printed_by_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HelpWanted) as caught:
        parse_line("rollout promote --help")
    assert "Examples:" in caught.value.text
    assert capsys.readouterr() == ("", "")


def _leaves() -> Iterator[tuple[str, Leaf]]:
    ctx = click.Context(root)
    for name in root.list_commands(ctx):
        yield from _below(name, root.get_command(ctx, name))


def _below(name: str, command: click.Command | None) -> Iterator[tuple[str, Leaf]]:
    """The command itself, or every verb of the noun, a noun of its own below it included."""
    if isinstance(command, Noun):
        for inner, found in command.commands.items():
            yield from _below(f"{name} {inner}", found)
    else:
        assert isinstance(command, Leaf)
        yield name, command


@pytest.mark.parametrize(("name", "leaf"), list(_leaves()), ids=[name for name, _ in _leaves()])
def test_every_help_teaches_with_examples_that_parse(name: str, leaf: Leaf) -> None:
    assert leaf.help
    assert leaf.examples, f"{name} has no example"
    for line, meaning in leaf.examples:
        assert meaning
        words = shlex.split(line.split(" > ")[0])
        assert words[0] == "airboss"
        parse_args(words[1:])
    assert all(p.help for p in leaf.params if isinstance(p, click.Option))


@given(
    st.lists(
        st.text(max_size=12) | st.sampled_from(["rollout", "list", "--wait", "-o", "json", "@x", "/y", "--"]),
        max_size=6,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_words_break_the_parser(words: list[str]) -> None:
    with contextlib.suppress(AirbossError, HelpWanted):
        parse_args(words)


@given(st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_no_line_breaks_the_parser(line: str) -> None:
    with contextlib.suppress(AirbossError, HelpWanted):
        parse_line(line)
