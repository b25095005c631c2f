"""Is a profile's server there? What Prometheus has of a profile's metrics now, with which labels, and what is missing. Blocks."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adapters.profiles.own import METRICS_PORT
from adapters.profiles.profile import Match, Reading
from adapters.prometheus_server import PrometheusServer

TIMEOUT_S = 5.0
SHOWN = 6
"""How many values of a label are named."""


@dataclass(frozen=True, slots=True)
class MetricSeen:
    """One metric: the labels that its series have now, none where there is no series, and why it cannot be read; "" when it can."""

    metric: str
    labels: tuple[str, ...]
    trouble: str = ""
    tracks: tuple[str, ...] = ()
    """The tracks of the service that have a series."""
    is_idle: bool = False
    """It is there as the profile wants it, and no series is the service's: nobody has asked it yet, or a track has another name."""


@dataclass(frozen=True, slots=True)
class Probed:
    """How a service's profile stands in an environment."""

    service: str
    env: str
    profile: str
    metrics: Sequence[MetricSeen] = ()
    trouble: str = ""
    """The first thing that keeps the judge from counting; "" where nothing does."""
    tracks: tuple[str, ...] = ()
    is_idle: bool = False
    """Nothing is wrong but that no series is the service's."""


def probe(reading: Reading, server: PrometheusServer) -> Probed:
    """Look at every metric that the judge would ask for. Raises what the server raises."""
    profile, place = reading.profile, reading.place
    seen = [_seen(reading, server, metric, where) for metric, where in _asked(reading)]
    if profile.cannot:
        there = [one.metric for one in seen if one.labels]
        found = f"{', '.join(there)} is there, and " if there else ""
        return Probed(place.service, place.env, profile.name, seen, f"{found}nothing can be judged: {profile.cannot}")
    if profile.slow is not None and reading.choice.latency and not seen[-1].trouble:
        seen[-1] = _with_bounds(reading, server, seen[-1])
    troubled = [one for one in seen if one.trouble]
    worst = next((one for one in troubled if not one.is_idle), next(iter(troubled), None))
    return Probed(
        place.service, place.env, profile.name, seen, worst.trouble if worst else "", seen[0].tracks if seen else (),
        is_idle=worst is not None and worst.is_idle,
    )  # fmt: skip


def _asked(reading: Reading) -> list[tuple[str, tuple[Match, ...]]]:
    """Each metric once, and what the judge wants of its labels; a histogram's buckets last."""
    profile = reading.profile
    asked = {counter.metric: counter.where for counter in profile.requests}
    asked |= dict.fromkeys(profile.probes, ())
    if profile.slow is not None and reading.choice.latency:
        asked[f"{profile.slow.metric}_bucket"] = profile.slow.where
    return list(asked.items())


def _seen(reading: Reading, server: PrometheusServer, metric: str, where: Sequence[Match]) -> MetricSeen:
    now = time.time()
    if not server.instant(f"group({metric})", now, timeout_s=TIMEOUT_S).series:
        return MetricSeen(metric, (), f"{metric} is not there{_advice(reading, metric)}")
    labels = tuple(sorted(set(server.label_names(metric, now, timeout_s=TIMEOUT_S)) - {"__name__"}))
    if reading.profile.probes:
        return MetricSeen(metric, labels)
    wanted = [m.label for m in (*reading.where, *where) if _must_be(m)] + [reading.track_label, "instance"]
    if absent := [label for label in dict.fromkeys(wanted) if label not in labels]:
        return MetricSeen(metric, labels, f"{metric} is there, without {', '.join(absent)}: it has {', '.join(labels)}")
    for matcher in reading.where:
        one = f"{matcher.label}{matcher.op}" + '"' + matcher.value + '"'
        values = _values(server, metric, matcher.label, now)
        if not any(_matches(matcher, value) for value in values):
            return MetricSeen(
                metric, labels, f"{metric} is there, and none has {one}: {matcher.label} is {_named(values)}"
            )
    selector = f"{metric}{{{reading.matchers(*where)}}}"
    values = _values(server, selector, reading.track_label, now)
    tracks = tuple(track for track, value in reading.tracks.items() if any(re.fullmatch(value, v) for v in values))
    if not tracks:
        meant = " or ".join(reading.tracks.values())
        said = (
            f"{reading.track_label} is {_named(values)}, a track is {meant}" if values else f"no series of {selector}"
        )
        why = f"; {reading.profile.lacks['requests']}" if "requests" in reading.profile.lacks else ""
        return MetricSeen(metric, labels, f"{metric} is there, of no track: {said}{why}", is_idle=True)
    return MetricSeen(metric, labels, tracks=tracks)


def _with_bounds(reading: Reading, server: PrometheusServer, seen: MetricSeen) -> MetricSeen:
    """With the trouble that the threshold is no bound of the buckets."""
    values = _values(server, f"{seen.metric}{{{reading.scope}}}", "le", time.time())
    bounds = sorted(float(value) for value in values if value not in ("", "+Inf"))
    if any(abs(bound - float(reading.bound)) < 1e-9 for bound in bounds):
        return seen
    unit = {1.0: "s", 0.001: "ms"}.get(reading.profile.slow.unit_s if reading.profile.slow else 1.0, "")
    text = f"{reading.bound} {unit} is no bound of {seen.metric}: there are {', '.join(f'{b:g}' for b in bounds)}"
    return MetricSeen(
        seen.metric, seen.labels, f"{text}; set slow under [service.{reading.place.service}.metrics]", seen.tracks
    )


def _values(server: PrometheusServer, selector: str, label: str, now: float) -> list[str]:
    answer = server.instant(f"group by ({label}) ({selector})", now, timeout_s=TIMEOUT_S)
    return sorted(labels.get(label, "") for labels, _ in answer.series)


def _must_be(matcher: Match) -> bool:
    """A series without the label would not be taken."""
    return not _matches(matcher, "")


def _matches(matcher: Match, value: str) -> bool:
    same = matcher.value == value if matcher.op in ("=", "!=") else bool(re.fullmatch(matcher.value, value))
    return same if matcher.op in ("=", "=~") else not same


def _named(values: Iterable[str]) -> str:
    found = [value or '""' for value in values]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def _advice(reading: Reading, metric: str) -> str:
    if reading.profile.name == "airboss":
        return f": {METRICS_PORT}"
    if (
        reading.profile.slow is not None
        and metric.startswith(reading.profile.slow.metric)
        and "slow" in reading.profile.lacks
    ):
        return f": {reading.profile.lacks['slow']}"
    return f": does Prometheus scrape {reading.profile.title}?"
