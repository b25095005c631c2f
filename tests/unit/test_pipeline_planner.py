"""Keys and plans: pure, so every claim is over values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pipelines.planner import Action, Ingredients, World, changes, ingredients, plan
from engine.pipelines.spec import Pipeline, StageSpec

BASE = Ingredients(
    entry="m:f",
    code="c1",
    params={"steps": 600, "text": None},
    inputs={"data": "d1"},
    sources={},
    environment={"torch": "2"},
    context={"baseline": None},
    seed=1,
)
PIPELINE = Pipeline(
    "toy",
    (
        StageSpec("a", "m:a", params={"n": 1}),
        StageSpec("b", "m:b", ("a",), reads=("baseline",)),
        StageSpec("c", "m:c", ("b",), cached=False),
    ),
)
WORLD = World(
    code={"a": "ca", "b": "cb", "c": "cc"}, environment={"python": "3"}, context={"baseline": "r1", "actor": "x"}
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


def key_of(world: World, stage: str, **inputs: str) -> str:
    return ingredients(PIPELINE, PIPELINE.stage(stage), world, inputs).key


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"entry": "m:g"}, "entry m:f → m:g"),
        ({"code": "c2"}, "code changed"),
        ({"params": {"steps": 900, "text": None}}, "steps 600 → 900"),
        ({"params": {"steps": 600}}, "text None → unset"),
        ({"inputs": {"data": "d2"}}, "input data changed"),
        ({"sources": {"text": "t1"}}, "source text changed"),
        ({"environment": {"torch": "3"}}, "torch 2 → 3"),
        ({"context": {"baseline": "r2"}}, "baseline changed"),
    ],
)
def test_each_ingredient_changes_the_key_and_is_named(change: dict[str, Any], says: str) -> None:
    changed = replace(BASE, **change)
    assert changed.key != BASE.key
    assert changes(BASE, changed) == says


def test_seed_alone_changes_the_key() -> None:
    assert replace(BASE, seed=2).key != BASE.key


@given(st.dictionaries(st.text(), scalars), st.dictionaries(st.text(), scalars))
def test_key_is_of_the_content_not_of_its_order(one: dict[str, Any], two: dict[str, Any]) -> None:
    shuffled = dict(reversed(list(one.items())))
    assert replace(BASE, params=shuffled).key == replace(BASE, params=one).key
    if repr(sorted(one.items(), key=repr)) != repr(sorted(two.items(), key=repr)):
        assert replace(BASE, params=one).key != replace(BASE, params=two).key


def test_ingredients_survive_json() -> None:
    assert Ingredients.from_json(BASE.to_json()) == BASE


def test_context_a_stage_does_not_read_is_not_in_its_key() -> None:
    other_actor = replace(WORLD, context={"baseline": "r1", "actor": "y"})
    other_baseline = replace(WORLD, context={"baseline": "r2", "actor": "x"})
    assert key_of(other_actor, "b", a="o") == key_of(WORLD, "b", a="o")
    assert key_of(other_baseline, "b", a="o") != key_of(WORLD, "b", a="o")


def test_nothing_known_means_the_first_runs_and_the_rest_follow() -> None:
    decided = plan(PIPELINE, WORLD)
    assert [(p.stage, p.action, p.why) for p in decided] == [
        ("a", Action.RUN, "first run"),
        ("b", Action.FOLLOW, "follows a"),
        ("c", Action.RUN, "has effects: always runs"),
    ]
    assert [bool(p.key) for p in decided] == [True, False, False]


def test_kept_outputs_are_reused_until_something_differs() -> None:
    a = key_of(WORLD, "a")
    b = key_of(WORLD, "b", a="out-a")
    world = replace(WORLD, outputs={a: "out-a", b: "out-b"})
    assert [p.action for p in plan(PIPELINE, world)] == [Action.REUSE, Action.REUSE, Action.RUN]
    changed = replace(world, code={**WORLD.code, "b": "cb2"})
    assert [p.action for p in plan(PIPELINE, changed)] == [Action.REUSE, Action.RUN, Action.RUN]


def test_broken_outputs_run_again_and_say_why() -> None:
    world = replace(WORLD, broken={key_of(WORLD, "a"): "x was modified"})
    assert plan(PIPELINE, world)[0].why == "kept outputs are unusable: x was modified"


def test_forcing_overrules_the_cache() -> None:
    a = key_of(WORLD, "a")
    world = replace(WORLD, outputs={a: "out-a", key_of(WORLD, "b", a="out-a"): "out-b"})
    assert [p.why for p in plan(PIPELINE, world, from_stage="b")] == ["nothing changed", "asked for", "after b"]
    assert [p.why for p in plan(PIPELINE, world, force=True)] == ["forced"] * 3
