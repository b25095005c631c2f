"""The lookout: everything that the machine decides by, read just now: the world, the store's word, the judge's verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.ports import ArmCounts, ArmEvidence, Interval, MetricsSource
from engine.people.freezes import in_force
from engine.people.glass import still_frozen
from engine.rollouts import journal, records
from engine.rollouts.judge import judge
from engine.rollouts.pairs import Pair, ShadowLimits, judge_pairs
from engine.rollouts.values import Facts, ReplicaFacts
from engine.rollouts.verdict import JudgeInput, JudgePolicy, Verdict
from engine.rollouts.world import World
from state import clock
from state.config import Config, Slo
from state.measures_config import CostConfig, QualityConfig
from state.models import Rollout
from state.policy_config import JudgeConfig
from state.store import Store
from state.words import RolloutState, Track, VerdictKind

Copies = Callable[[str, str, str, float], Awaitable[Sequence[Pair]]]
"""(service, env, rollout, since) → what the gateway's workers wrote of copies and their primaries."""
_JUDGED = (
    RolloutState.SHADOWING,
    RolloutState.STEP_BAKING,
    RolloutState.VERIFYING,
    RolloutState.AWAITING_PROMOTION,
)


async def no_copies(service: str, env: str, rollout_id: str, since: float) -> Sequence[Pair]:
    """Of a gateway that keeps none."""
    return ()


@dataclass(frozen=True, slots=True)
class Lookout:
    """Reads the facts of one rollout."""

    store: Store
    world: World
    metrics: MetricsSource
    config: Config
    pairs: Copies

    async def facts(self, seen: records.Opened) -> Facts:
        """The world as it is for the rollout `seen`."""
        now = clock.now()
        r, elapsed_s = seen.now, clock.elapsed_s(seen.since, now)
        held, state_s, frozen, tracks, known, trouble = await self.store.read(
            lambda s: (
                bool(records.leases(s, seen.env, "hold", now.utc, seen.service)),
                records.acting_s(s, seen.env, seen.service, now.utc, elapsed_s),
                bool(still_frozen(s, seen.now.id, in_force(s, self.config, seen.env, seen.service, now.utc))),
                records.track_weights(s, seen),
                records.known_splits(s, seen),
                journal.trouble(s, s.get_one(Rollout, r.id), now.utc),
            )
        )
        # Whoever gets its first traffic next must generate a token now; a rolling update has such replicas at every step.
        probes = r.state is RolloutState.PREPARING or (r.replaces and r.state is RolloutState.STEP_APPLYING)
        canary = await self.world.replica_facts(seen, r.to_release, probe=probes)
        stable = baseline = ReplicaFacts()
        if r.from_release is not None:
            stable = await self.world.replica_facts(seen, r.from_release, probe=False)
            if r.has_baseline:
                baseline = await self.world.replica_facts(seen, r.from_release, probe=probes, role=Track.BASELINE)
        step_s = clock.elapsed_s(seen.step_since, now) if seen.step_since else 0.0
        weights, extras = await self.world.standing(seen.service, seen.env)
        return Facts(
            state_s=state_s,
            step_s=step_s,
            stable=stable,
            canary=canary,
            weights=weights,
            extras=extras,
            baseline=baseline,
            verdict=await self._verdict(seen, step_s, canary),
            approvals=seen.approvals,
            rejections=seen.rejections,
            tracks=tracks,
            is_held=held,
            is_frozen=frozen,
            known=known,
            # No longer than it has stood here, whatever the wall clock says (I9).
            trouble=trouble and replace(trouble, since_s=min(trouble.since_s, state_s)),
        )

    async def _verdict(self, seen: records.Opened, step_s: float, canary: ReplicaFacts) -> Verdict | None:
        r = seen.now
        if r.standing not in _JUDGED or seen.step_since is None:
            return None
        verifying = r.standing is RolloutState.VERIFYING
        policy = judge_policy(seen.policy, self.config.service[seen.service].slo)
        is_shadow = bool(r.mirror_pct) and not verifying
        if is_shadow and self._copies_pass_us(seen.env):
            shadow = ShadowLimits.from_policy(seen.policy)
            pairs = await self.pairs(seen.service, seen.env, r.id, seen.step_since.utc)
            slow_ms = float(
                seen.policy.get("slo", {}).get("latency_p95_ms", self.config.service[seen.service].slo.latency_p95_ms)
            )
            # Thousands of pairs take longer to judge than the loop may stand still.
            return await asyncio.to_thread(
                judge_pairs, pairs, slow_ms, policy, shadow, step_s, time.time(), canary.crash_loop or None
            )
        evidence = await self.metrics.arms(seen.service, seen.env, r.id, seen.table_revision, seen.step_since.utc)
        if verifying:
            evidence = _stable_as_canary(evidence)
        if is_shadow:
            evidence = replace(evidence, intervals=evidence.copies)
        weight_pct = 100 if verifying else 50 if r.baseline_weight else r.weight
        if is_shadow:
            weight_pct = round(100 * r.mirror_pct / (100 + r.mirror_pct))
        verdict = judge(
            JudgeInput(
                evidence=evidence,
                policy=policy,
                elapsed_s=step_s,
                has_stable_arm=not verifying and r.from_release is not None and r.weight < 100,
                crash_loop=canary.crash_loop or None,
                configured_weight_pct=weight_pct,
            )
        )
        return _of_copies(verdict) if is_shadow else verdict

    def _copies_pass_us(self, env: str) -> bool:
        """Our gateway makes the copies, and so has both answers to each request; another's throws the copy's away."""
        settings = self.config.environment.get(env)
        target = settings.cluster if settings is not None else None
        return target is None or target.traffic == "gateway"


def _of_copies(verdict: Verdict) -> Verdict:
    """A verdict on the shadow's own counts, in the shadow's words."""
    said = verdict.sentence.replace("canary", "shadow")
    if verdict.kind is VerdictKind.NO_DATA:
        said += ' The copies do not pass our gateway: the metrics source must count them as track="shadow".'
    return replace(verdict, sentence=said)


def judge_policy(policy: Mapping[str, Any], slo: Slo) -> JudgePolicy:
    """The judge's numbers of a frozen policy; a running rollout keeps the objectives it began with."""
    return JudgePolicy.from_config(
        JudgeConfig.model_validate(policy["judge"]),
        Slo.model_validate(policy.get("slo") or slo.model_dump()),
        QualityConfig.model_validate(policy.get("quality") or {}),
        CostConfig.model_validate(policy.get("cost") or {}),
    )


def _stable_as_canary(evidence: ArmEvidence) -> ArmEvidence:
    """After promotion the release under judgement is the stable track."""
    none = ArmCounts()
    return replace(evidence, intervals=tuple(Interval(i.t0, i.t1, none, i.stable) for i in evidence.intervals))
