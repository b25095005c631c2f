"""What would run, and why. Pure: takes fingerprints and known outputs, returns a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from engine.pipelines.spec import Pipeline, StageSpec
from state.digests import canonical_json, text_sha256

KEY_VERSION = 1
"""Raised when the meaning of a key's ingredients changes, so that no old output is taken for a new one."""


@dataclass(frozen=True, slots=True)
class Ingredients:
    """All that a stage's outputs depend on. Its key is their hash.

    `code` is the digest of the entry's source and of what it imports of ours, `inputs` the output digests of the stages
    it needs, `sources` the digests of outside data, `environment` the versions that change numbers.
    """

    entry: str
    code: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    sources: Mapping[str, str]
    environment: Mapping[str, str]
    context: Mapping[str, Any]
    seed: int | None

    @property
    def key(self) -> str:
        """64 hex digits that name the outputs."""
        return text_sha256(canonical_json({"version": KEY_VERSION, **asdict(self)}))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, kept beside the run and in the cache to say later what changed."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Ingredients:
        """The ingredients `to_json` wrote."""
        return cls(**body)


@dataclass(frozen=True, slots=True)
class World:
    """What the planner is told of the world.

    `code` and `sources` go by stage name. `outputs` maps a key to the digest of outputs that were found and verified;
    `broken` a key to what is wrong with the outputs found, `foretold` a key to the digest of outputs that lie in the workspace as
    dvc.lock says. `previous` has the last ingredients known of each stage.
    """

    code: Mapping[str, str]
    environment: Mapping[str, str]
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    foretold: Mapping[str, str] = field(default_factory=dict)
    previous: Mapping[str, Ingredients] = field(default_factory=dict)


class Action(StrEnum):
    """What a plan says of a stage."""

    RUN = "run"
    REUSE = "reuse"
    FOLLOW = "follow"
    """It depends on outputs that are yet to be made: it runs, unless they turn out to be the same as before."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a plan. `key` and `output` are empty while they cannot be known."""

    stage: str
    action: Action
    why: str
    key: str = ""
    output: str = ""


def ingredients(pipeline: Pipeline, stage: StageSpec, world: World, inputs: Mapping[str, str]) -> Ingredients:
    """What the outputs of `stage` depend on, given the output digests of the stages it needs."""
    params = pipeline.stage_params(stage.name)
    seed = params.get("seed")
    return Ingredients(
        entry=stage.entry,
        code=world.code[stage.name],
        params=params,
        inputs={need: inputs[need] for need in stage.needs},
        sources=dict(world.sources.get(stage.name, {})),
        environment={**world.environment, **({"image": stage.executor["image"]} if stage.executor else {})},
        context={name: world.context.get(name) for name in stage.reads},
        seed=seed if isinstance(seed, int) else None,
    )


def forced_stages(pipeline: Pipeline, from_stage: str | None, force: bool) -> Mapping[str, str]:
    """The stages whose cached outputs are not wanted, and why. Raises UsageError for an unknown stage."""
    if force:
        return {stage.name: "forced" for stage in pipeline.stages}
    if from_stage is None:
        return {}
    return {
        name: "asked for" if name == from_stage else f"after {from_stage}" for name in pipeline.downstream(from_stage)
    }


def plan(
    pipeline: Pipeline, world: World, *, from_stage: str | None = None, force: bool = False
) -> tuple[StagePlan, ...]:
    """What each stage of `pipeline` would do in `world`, in order."""
    forced = forced_stages(pipeline, from_stage, force)
    decided: dict[str, StagePlan] = {}
    for stage in pipeline.stages:
        open_needs = [need for need in stage.needs if not decided[need].output]
        if open_needs:
            why = forced.get(stage.name) or (
                "has effects: always runs" if not stage.cached else f"follows {', '.join(open_needs)}"
            )
            action = Action.RUN if stage.name in forced or not stage.cached else Action.FOLLOW
            decided[stage.name] = StagePlan(stage.name, action, why)
            continue
        made_of = ingredients(pipeline, stage, world, {need: decided[need].output for need in stage.needs})
        decided[stage.name] = _decide(stage, made_of, world, forced.get(stage.name))
    return tuple(decided[stage.name] for stage in pipeline.stages)


def _decide(stage: StageSpec, made_of: Ingredients, world: World, forced: str | None) -> StagePlan:
    key = made_of.key
    if forced:
        return StagePlan(stage.name, Action.RUN, forced, key)
    if not stage.cached:
        return StagePlan(stage.name, Action.RUN, "has effects: always runs", key)
    if key in world.outputs:
        return StagePlan(stage.name, Action.REUSE, "nothing changed", key, world.outputs[key])
    if key in world.foretold:
        return StagePlan(stage.name, Action.REUSE, "up to date by dvc.lock", key, world.foretold[key])
    if key in world.broken:
        return StagePlan(stage.name, Action.RUN, f"kept outputs are unusable: {world.broken[key]}", key)
    return StagePlan(stage.name, Action.RUN, changes(world.previous.get(stage.name), made_of), key)


def changes(before: Ingredients | None, after: Ingredients) -> str:
    """What differs between two runs of a stage, in one line for a person."""
    if before is None:
        return "first run"
    said = [f"entry {before.entry} → {after.entry}"] if before.entry != after.entry else []
    said += ["code changed"] if before.code != after.code else []
    said += [
        f"{name.removeprefix('param:')} {_short(old)} → {_short(new)}"
        for name, old, new in _differing(before.params, after.params)
        if name != "dvc"  # what it says is said by other parameters too
    ]
    said += [f"input {name} changed" for name, _, _ in _differing(before.inputs, after.inputs)]
    said += [f"source {name.removeprefix('dep:')} changed" for name, _, _ in _differing(before.sources, after.sources)]
    said += [
        f"{name} {_short(old)} → {_short(new)}" for name, old, new in _differing(before.environment, after.environment)
    ]
    said += [f"{name} changed" for name, _, _ in _differing(before.context, after.context)]
    return ", ".join(said) or "no finished outputs are kept"


_ABSENT = object()


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted(before.keys() | after.keys())
    pairs = [(name, before.get(name, _ABSENT), after.get(name, _ABSENT)) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]


def _short(value: Any) -> str:
    text = "unset" if value is _ABSENT else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
