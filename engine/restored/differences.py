"""Where the record and the world differ, and what a person can do about each difference. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from state.words import PauseReason

Place = tuple[str, str]
"""Service, environment."""
Split = Mapping[str, int]
"""Release → percent, those above 0."""


@dataclass(frozen=True, slots=True)
class PausedRollout:
    """A rollout that stands still, and why."""

    id: str
    service: str
    env: str
    reason: str
    was: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the store says: traffic, releases, rollouts, the registry's champions."""

    traffic: Mapping[Place, Split]
    releases: frozenset[str]
    broken_bundles: Mapping[str, str] = field(default_factory=dict)
    paused: tuple[PausedRollout, ...] = ()
    champions: Mapping[str, str] = field(default_factory=dict)
    """Model → the version whose release is in production."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is there: traffic as the gateway serves it (None: it cannot be asked), processes, the registry's aliases."""

    traffic: Mapping[Place, Split] | None
    replicas: Mapping[tuple[str, str, str], int]
    """Service, environment, release → processes that live."""
    aliases: Mapping[str, str | None] = field(default_factory=dict)
    """Model → the version that `champion` names; a model whose registry does not answer is left out."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the record and the world say differently."""

    kind: str
    """weights, replicas, rollout, bundle or alias."""
    ref: str
    record: str
    world: str
    todo: str


def differences(recorded: Recorded, found: Found) -> tuple[Difference, ...]:
    """Every difference, traffic first."""
    return (
        *_weights(recorded, found),
        *_replicas(recorded, found),
        *_rollouts(recorded),
        *_bundles(recorded),
        *_aliases(recorded, found),
    )


def said(split: Split) -> str:
    """`charlm-1 75 %, charlm-2 25 %`, or nothing."""
    return ", ".join(f"{release} {weight} %" for release, weight in sorted(split.items())) or "nothing"


def _weights(recorded: Recorded, found: Found) -> Iterator[Difference]:
    if found.traffic is None:
        yield Difference("weights", "gateway", "a table", "no worker answers", "`airboss status`; then look again")
        return
    for place in sorted({*recorded.traffic, *found.traffic}):
        wanted, served = recorded.traffic.get(place, {}), found.traffic.get(place, {})
        if dict(wanted) == dict(served):
            continue
        service, env = place
        where = f"{service} --env {env}"
        unknown = sorted(set(served) - recorded.releases)
        keep = (
            f"{unknown[0]} is in no record, so it can only be left or replaced"
            if unknown
            else f"`airboss state adopt {where}` records what is served"
        )
        yield Difference(
            "weights",
            f"service/{service}@{env}",
            said(wanted),
            said(served),
            f"{keep}; `airboss state enforce {where}` serves what is recorded",
        )


def _replicas(recorded: Recorded, found: Found) -> Iterator[Difference]:
    wanted = {(service, env, release) for (service, env), split in recorded.traffic.items() for release in split}
    for service, env, release in sorted({*wanted, *found.replicas} - (wanted & set(found.replicas))):
        count = found.replicas.get((service, env, release), 0)
        yield Difference(
            "replicas",
            f"service/{service}@{env}",
            f"{release} serves" if (service, env, release) in wanted else f"{release} does not serve",
            f"{count} of {release} run" if count else f"none of {release} runs",
            "they are left running until the traffic is settled"
            if count
            else "the engine starts them; `airboss status` shows how that goes",
        )


def _rollouts(recorded: Recorded) -> Iterator[Difference]:
    for rollout in recorded.paused:
        if rollout.reason == PauseReason.RESTORED:
            yield Difference(
                "rollout",
                f"rollout/{rollout.id}",
                rollout.was,
                "unknown since the backup",
                f"`airboss rollout resume {rollout.id}` goes on from there; `airboss rollout abort {rollout.id}` returns",
            )


def _bundles(recorded: Recorded) -> Iterator[Difference]:
    for release, trouble in sorted(recorded.broken_bundles.items()):
        yield Difference(
            "bundle", f"release/{release}", "its bundle", trouble, "`airboss state restore` puts kept bundles back"
        )


def _aliases(recorded: Recorded, found: Found) -> Iterator[Difference]:
    for model, version in sorted(recorded.champions.items()):
        named = found.aliases.get(model, version)
        if named != version:
            yield Difference(
                "alias",
                f"model/{model}",
                f"champion = {version}",
                f"champion = {named or 'none'}",
                "the next rollout that completes sets it; until then the registry is not believed",
            )
