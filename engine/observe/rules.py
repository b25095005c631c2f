"""Which alerts fire, given the facts. Pure: facts in, the firing set out; how long and who is told is `alerts`' work.

Every rule names what is wrong, where, and what to do, in one sentence. A fact that is not known fires nothing here;
what makes facts unknown (a gateway worker, a registry) has rules of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from engine.observe.conditions import Facts, Firing, RolloutFact
from engine.observe.slo import Objective, SloStatus
from state.words import PauseReason, RolloutState, Severity, Track, VerdictKind

PROBES_IN_ROW = 3
MISMATCH_POINTS = 3.0
MISMATCH_MIN_REQUESTS = 200
MISMATCH_SIGMAS = 3.0
NO_CANARY_EXPECTED = 10
"""Expecting this many requests and seeing none happens by chance once in 22 000 (e^-10)."""
ATTEMPTS_MIN = 10
ATTEMPTS_SHARE = 0.2
FAILED_CANARY_SHOWN_S = 900.0

_WEIGHED = frozenset(
    {RolloutState.STEP_BAKING, RolloutState.AWAITING_PROMOTION, RolloutState.VERIFYING, RolloutState.PAUSED}
)


def firing(facts: Facts) -> tuple[Firing, ...]:
    """Every condition that holds, each once."""
    ours = (_gateway, _crash_loops, _rollouts, _adapters, _drifts, _git, _glasses, _record)
    rates = () if facts.rates_are_theirs else (_burn_rates, _traffic)
    found = {one.fingerprint: one for rule in (*rates, *ours) for one in rule(facts)}
    found |= {one.fingerprint: one for one in (*facts.own, *facts.outside)}
    return tuple(found.values())


def _burn_rates(facts: Facts) -> Iterator[Firing]:
    for slo in facts.slos:
        for objective in (slo.availability, slo.latency):
            if objective.burning:
                yield _burn_rate(slo, objective)


def _burn_rate(slo: SloStatus, objective: Objective) -> Firing:
    rule = objective.burning[0]  # RULES stand from loud to quiet
    rate = objective.burns[rule.long_s].rate
    left = objective.budget_left
    budget = "" if left is None else f"; {left:.1%} of the budget is left"
    return Firing(
        "ErrorBudgetBurn" if objective.name == "availability" else "LatencyBudgetBurn",
        rule.severity,
        f"{slo.service} in {slo.env} burns its {objective.name} budget {rate or 0:.1f} times too fast"
        f" (over {rule.label}){budget}: roll back what changed last (b), or find what fails",
        slo.service,
        slo.env,
        {"severity": rule.severity.value},
    )


def _gateway(facts: Facts) -> Iterator[Firing]:
    down = [p for p in facts.probes if p.failures_in_row >= PROBES_IN_ROW]
    lost = [p for p in down if p.kind == "unreachable" or facts.gateway_trouble]
    if lost or facts.gateway_trouble:
        seen = f"{lost[0].failures_in_row} probes in a row failed: {lost[0].error}" if lost else facts.gateway_trouble
        yield Firing(
            "GatewayDown",
            Severity.PAGE,
            f"the gateway does not answer ({seen}): users get nothing; see `airboss status` and the gateway's log",
            for_s=0.0 if lost else 5.0,
        )
    for probe in down:
        if probe not in lost:
            yield Firing(
                "ProbeFailing",
                Severity.PAGE,
                f"{probe.service} in {probe.env} does not answer users: {probe.failures_in_row} probes in a row failed:"
                f" {probe.error}",
                probe.service,
                probe.env,
            )


def _crash_loops(facts: Facts) -> Iterator[Firing]:
    for loop in facts.crash_loops:
        yield Firing(
            "CrashLoop",
            Severity.TICKET if loop.track == Track.CANARY else Severity.PAGE,
            f"replicas of {loop.release_id} do not stay up ({loop.reason}): read their log, or roll back (b)",
            loop.service,
            loop.env,
            {"release": loop.release_id},
        )


def _rollouts(facts: Facts) -> Iterator[Firing]:
    for ro in facts.rollouts:
        labels = {"rollout": ro.id}
        if ro.state is RolloutState.STUCK:
            summary = f"{ro.id} is stuck: {ro.message or 'it needs a hand'}"
            yield Firing("RolloutStuck", Severity.PAGE, summary, ro.service, ro.env, labels)
        if ro.state is RolloutState.PAUSED and ro.pause_reason != PauseReason.MANUAL:
            name = "RolloutNoData" if ro.pause_reason == PauseReason.NO_DATA else "RolloutPaused"
            summary = f"{ro.id} is paused ({ro.pause_reason}): {ro.message or 'look, then resume (z) or abort (x)'}"
            yield Firing(name, Severity.TICKET, summary, ro.service, ro.env, {**labels, "reason": ro.pause_reason})
        if why := _canary_fails(ro, facts.now):
            has_failed = ro.verdict == VerdictKind.FAIL or ro.canary_attempt_failures >= ATTEMPTS_MIN
            severity = Severity.TICKET if has_failed else Severity.INFO
            yield Firing("CanaryFailing", severity, why, ro.service, ro.env, {**labels, "release": ro.to_release})


def _canary_fails(ro: RolloutFact, now: float) -> str:
    sentence = ro.verdict_sentence or ro.message
    if ro.state is RolloutState.ROLLING_BACK:
        return f"{ro.to_release} is being rolled back: {sentence}"
    if ro.state is RolloutState.ROLLED_BACK:
        is_recent = now - ro.state_since < FAILED_CANARY_SHOWN_S
        return f"{ro.to_release} was rolled back: {sentence}" if is_recent else ""
    if ro.state.is_terminal:
        return ""
    if ro.verdict == VerdictKind.FAIL:
        return f"{ro.to_release} fails: {sentence}"
    attempts = ro.canary_requests + ro.canary_attempt_failures
    if ro.canary_attempt_failures >= max(ATTEMPTS_MIN, ATTEMPTS_SHARE * attempts):
        return (
            f"{ro.canary_attempt_failures} of {attempts} attempts on {ro.to_release} failed and were answered elsewhere:"
            f" users are safe, the canary is not"
        )
    return ""


def _traffic(facts: Facts) -> Iterator[Firing]:
    for ro in facts.rollouts:
        total = ro.stable_requests + ro.canary_requests
        if ro.state not in _WEIGHED or not 0 < ro.canary_weight < 100 or not total:
            continue
        share = ro.canary_weight / 100
        if ro.canary_requests == 0 and total * share >= NO_CANARY_EXPECTED:
            yield Firing(
                "CanaryNoTraffic",
                Severity.TICKET,
                f"{ro.to_release} should get {ro.canary_weight} % and got none of {total} requests: are its replicas healthy?",
                ro.service,
                ro.env,
                {"rollout": ro.id},
                for_s=30.0,
            )
        elif total >= MISMATCH_MIN_REQUESTS and abs(_points_off(ro)) > _tolerance(share, total):
            yield Firing(
                "WeightMismatch",
                Severity.TICKET,
                f"{ro.to_release} should get {ro.canary_weight} % and gets {100 * ro.canary_requests / total:.1f} % of {total}"
                f" requests: the judge uses what was measured; see the gateway's table and its replicas' health",
                ro.service,
                ro.env,
                {"rollout": ro.id},
                for_s=60.0,
            )


def _points_off(ro: RolloutFact) -> float:
    return 100 * ro.canary_requests / (ro.stable_requests + ro.canary_requests) - ro.canary_weight


def _tolerance(share: float, total: int) -> float:
    """Percentage points a fair split of `total` requests may be off: 3, and three standard errors of a binomial share."""
    return MISMATCH_POINTS + 100 * MISMATCH_SIGMAS * math.sqrt(share * (1 - share) / total)


def _adapters(facts: Facts) -> Iterator[Firing]:
    for adapter in facts.adapters:
        if adapter.error:
            yield Firing(
                "AdapterDown",
                Severity.TICKET,
                f"{adapter.name} is down: {adapter.error}",
                labels={"adapter": adapter.name},
                for_s=5.0,
            )


def _drifts(facts: Facts) -> Iterator[Firing]:
    for drift in facts.drifts:
        yield Firing(
            "RegistryDrift", Severity.TICKET, drift.says(), labels={"model": drift.model, "alias": drift.alias}
        )


def _git(facts: Facts) -> Iterator[Firing]:
    for kept in facts.kept_in_git:
        yield Firing(
            "GitStillSays",
            Severity.TICKET,
            f"Git still says {kept.release}, which was rolled back: {kept.owner} keeps Deployment {kept.name}; {kept.patch}",
            kept.service,
            kept.env,
            {"release": kept.release},
        )


def _glasses(facts: Facts) -> Iterator[Firing]:
    for glass in facts.glasses:
        yield Firing(
            "BreakGlass",
            Severity.TICKET,
            f"{glass.by} went past {glass.passed}: {glass.reason}; somebody else must look:"
            f" `airboss break-glass ack {glass.id}`",
            glass.service,
            glass.env,
            {"glass": str(glass.id)},
        )


def _record(facts: Facts) -> Iterator[Firing]:
    if facts.audit_trouble:
        yield Firing(
            "AuditChainBroken",
            Severity.PAGE,
            f"the audit log was changed by another hand: {facts.audit_trouble}; keep the file and see `airboss audit verify`",
        )
    if facts.backup_trouble:
        yield Firing(
            "BackupTrouble",
            Severity.TICKET,
            f"{facts.backup_trouble}; `airboss state backup` makes one now, `airboss state backups` shows them",
        )
    if not facts.someone_is_paged:
        yield Firing(
            "NoOneIsPaged",
            Severity.INFO,
            "no one is paged: set alerts.webhook, alerts.command or alerts.alertmanager in airboss.toml",
        )
