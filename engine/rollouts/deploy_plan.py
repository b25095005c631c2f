"""What a deployment will change, in order, and what it costs on the way: the panel and `--dry-run` show it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.api.schemas import PlanLine, PlanView
from engine.rollouts.previews import Preview
from engine.rollouts.values import StepSpec
from state.words import Strategy, UsageError

NO_PREVIEW = Preview("", "")
DRAIN_S = 30.0
"""How long a replica may take to finish its streams before it is unloaded."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one kind of memory: what a stable replica uses (None: nobody could look), and what is free."""

    used: int | None
    free: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What is known of a start here, and of room. Sizes are of the releases' files, in bytes; 0 is not known."""

    start_s: float
    is_measured: bool
    host: Memory = Memory(None, 0)
    gpu: Memory | None = None
    """None where replicas use no GPU."""
    size_from: int = 0
    size_to: int = 0

    @property
    def start_says(self) -> str:
        """The start in words, with where the number is from."""
        return f"{self.start_s:.0f} s ({'measured here' if self.is_measured else 'a guess: no start was measured yet'})"


def deploy_plan(
    service: str,
    env: str,
    release_id: str,
    stable: str | None,
    policy: Mapping[str, Any],
    cost: Cost,
    preview: Preview = NO_PREVIEW,
) -> PlanView:
    """The plan of rolling `release_id` out where `stable` is live; `preview` is how people reach it before it has traffic."""
    strategy, replicas = Strategy(policy["strategy"]), int(policy["replicas"])
    lines = [PlanLine(object=f"{env} replicas", field=release_id, before="0", after=str(replicas))]
    if stable is not None:
        if policy.get("baseline"):
            lines.append(PlanLine(object=f"{env} replicas", field=f"{stable}, fresh", before="0", after=str(replicas)))
        if strategy is Strategy.BLUE_GREEN:
            lines.append(PlanLine(object=f"{env} preview", field=preview.by, before="", after=preview.at))
        lines += _steps(env, release_id, policy)
        if strategy in (Strategy.ROLLING, Strategy.SWAP):
            lines.append(PlanLine(object=f"{env} replicas", field=stable, before=str(replicas), after="0"))
    after = release_id if policy["auto_promote"] else f"{release_id}, once a person promotes it"
    lines.append(PlanLine(object=f"{env} stable", field="release", before=stable or "nothing", after=after))
    lines.append(PlanLine(object="registry", field="champion", before=stable or "nothing", after=after))
    warnings = _warnings(strategy, policy, cost, stable) if stable is not None else ()
    if stable is None:
        warnings = (f"the first release of {service} in {env}: there is nothing to compare it with",)
    gap = strategy is Strategy.SWAP and stable is not None
    return PlanView(
        verb="deploy",
        ref=f"service/{service}",
        lines=tuple(lines),
        warnings=warnings,
        sheds=f"every request for about {cost.start_s:.0f} s" if gap else "",
    )


def describe_step(step: Mapping[str, Any] | StepSpec) -> str:
    """A step in few words, as plans and `rollout show` have it."""
    spec = step if isinstance(step, StepSpec) else StepSpec(**step)
    if spec.kind == "weight":
        return f"{spec.value:.0f} %" + (f" on {spec.replicas} replica(s)" if spec.replicas else "")
    return {
        "mirror": f"copies of {spec.value:.0f} %",
        "header": f"header {spec.text}",
        "cookie": f"cookie {spec.text}",
        "pause": f"{spec.value:.0f} s",
        "approval": f"{spec.value:.0f} more approval(s)",
        "analysis": "judged",
    }[spec.kind]


def _steps(env: str, release_id: str, policy: Mapping[str, Any]) -> list[PlanLine]:
    lines, share = [], 0
    for step in policy["steps"]:
        if step["kind"] == "weight":
            lines.append(
                PlanLine(
                    object=f"{env} traffic", field=f"to {release_id}", before=f"{share} %", after=describe_step(step)
                )
            )
            share = int(step["value"])
        else:
            lines.append(
                PlanLine(object=f"{env} {step['kind']}", field=release_id, before="", after=describe_step(step))
            )
    return lines


def _warnings(strategy: Strategy, policy: Mapping[str, Any], cost: Cost, stable: str | None) -> tuple[str, ...]:
    """What the way costs, and what it gives up beside keeping the release before at full capacity (I13)."""
    replicas = int(policy["replicas"])
    if strategy is Strategy.SWAP:
        return (
            f"there is a gap: after up to {DRAIN_S:.0f} s of draining nobody is answered for about {cost.start_says}, and "
            f"for as long again if {stable} has to be restored",
        )
    if strategy is Strategy.ROLLING:
        return _rolling_warnings(policy, cost, str(stable))
    if strategy is Strategy.BLUE_GREEN:
        return (f"both releases stand at full capacity until the warm hold ends: {2 * replicas} replicas",)
    if strategy is Strategy.SHADOW or any(step["kind"] == "mirror" for step in policy["steps"]):
        return (f"copies are answered by {replicas} replica(s) that no user is waiting for",)
    if policy.get("baseline"):
        return (f"{3 * replicas} replicas stand beside each other while it is judged",)
    return ()


def _rolling_warnings(policy: Mapping[str, Any], cost: Cost, stable: str) -> tuple[str, ...]:
    replicas, surge, away = int(policy["replicas"]), int(policy["surge"]), int(policy["unavailable"])
    said = [
        f"a cheaper way: {stable} gives its replicas up as it goes, and nothing of it is kept warm afterwards. Going back "
        f"at the last step starts {replicas - min(surge, replicas)} of {replicas} again, about {cost.start_says}; until "
        f"then up to {100 - 100 * min(surge, replicas) // replicas} % of the capacity is missing, and what exceeds the "
        "rest is shed"
    ]
    if away:
        said.append(
            f"each batch takes {away} of {replicas} replicas away for about {cost.start_s:.0f} s: up to "
            f"{100 * away // replicas} % of the capacity is missing then, and what exceeds the rest is shed"
        )
    if any(step.get("settle_s") is not None for step in policy["steps"]):
        said.append("batches only have to settle: none of them is judged before the last has all traffic")
    return tuple(said)


def refuse_blind_swap(release_id: str, stable: str, replicas: int, cost: Cost) -> None:
    """Raise UsageError when it is not known that the release fits into what `stable` gives back, or known that it does not.

    A replica of the new one is taken to need what one of the old was measured to use, or more by as much as its files
    are larger.
    """
    if not cost.size_from or not cost.size_to:
        unknown = stable if not cost.size_from else release_id
        raise _blind(f"the size of {unknown}'s files is not known")
    for name, memory in (("memory", cost.host), ("GPU memory", cost.gpu)):
        if memory is None:
            continue
        if memory.used is None:
            raise _blind(f"no replica of {stable} could be looked at for its {name}")
        needs = int(memory.used * max(1.0, cost.size_to / cost.size_from)) * replicas
        there = memory.free + memory.used * replicas
        if needs > there:
            raise UsageError(
                f"{release_id} does not fit: {replicas} replica(s) need about {needs >> 20} MiB of {name}, and "
                f"{there >> 20} MiB are there once {stable} is unloaded",
                hint="fewer replicas, a smaller or quantised release, or a larger machine",
                code="does_not_fit",
            )


def _blind(why: str) -> UsageError:
    return UsageError(
        f"a swap unloads what serves before it knows whether the other loads, and {why}",
        hint="use blue-green or rolling; --force swaps all the same",
        code="memory_unknown",
    )
