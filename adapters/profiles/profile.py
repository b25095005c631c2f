"""A metric profile: what the judge asks, in another server's names. Data, and the PromQL that is made of it. Pure.

A series of one code is born at its first response, and what a counter held at birth is no difference: so series are added up by
exporter and track before anything is differenced, and errors stand at zero wherever requests are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from state.metrics_config import ProfileChoice
from state.words import Track

Op = Literal["=", "!=", "=~", "!~"]
WORDS = ("requests", "errors", "slow", "tokens", "queue", "gpu")
"""What a profile may be asked by name."""
GPU_BY_POD = (
    'avg by (pod) (label_replace(DCGM_FI_DEV_GPU_UTIL{exported_pod=~"$service-.+",exported_namespace=~"$namespace"}, '
    '"pod", "$1", "exported_pod", "(.+)") or DCGM_FI_DEV_GPU_UTIL{exported_pod="",pod=~"$service-.+",namespace=~"$namespace"}) / 100'
)
"""The busy share of its pods' GPUs, as NVIDIA's dcgm-exporter counts in a cluster: it names the pod (github.com/NVIDIA/dcgm-exporter
issues 85, 150), which Prometheus calls exported_pod unless honor_labels is set."""
GPU_BY_POD_LACKS = (
    "of pods named SERVICE-…, where NVIDIA's dcgm-exporter says whose a GPU is; MIG slices have another metric"
)
COUNTED_TRACKS = (Track.STABLE, Track.CANARY, Track.BASELINE)
CLIENTS_OWN, CLIENTS_OWN_BUT_429 = "4..", "4([013-9].|2[0-8])"
BAD_CODES, BAD_CODES_AND_429 = "5..", "5..|429"


@dataclass(frozen=True, slots=True)
class Match:
    """One matcher. In `value`: `{service}`, `{env}`, `{namespace}`, and `{clients_own}` and `{bad}`, the codes that are which."""

    label: str
    op: Op
    value: str


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter, and which of its series are meant."""

    metric: str
    where: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram without its `_bucket`; `unit_s` is what its bounds are in."""

    metric: str
    unit_s: float
    where: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """Whose counters, which of them count, and what tells a track. Values of `tracks` are regular expressions.

    Where `requests` is empty nothing can be judged, and `cannot` says why.
    """

    name: str
    title: str
    source: str
    requests: tuple[Counter, ...] = ()
    errors: tuple[Counter, ...] = ()
    slow: Histogram | None = None
    where: tuple[Match, ...] = ()
    track_label: str = ""
    tracks: Mapping[str, str] = field(
        default_factory=lambda: {track.value: f"{{service}}-{track}" for track in COUNTED_TRACKS}
    )
    knows_429: bool = True
    """Its codes tell a 429 from other 4xx."""
    cannot: str = ""
    probes: tuple[str, ...] = ()
    """What is there if the server is, where nothing of it can be judged."""
    more: Mapping[str, str] = field(default_factory=dict)
    """What else it can be asked, by word (tokens, queue, gpu): PromQL with `$where`, `$window` and `$track`, the track's label."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Why a word has no answer, or what of it is not seen."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose numbers: a service in an environment, and the threshold of a slow request."""

    service: str
    env: str
    namespace: str | None
    slow_ms: float

    def fill(self, text: str, choice: ProfileChoice) -> str:
        """`text` with names in the place of `{…}`; other braces (a regular expression's) stay."""
        codes = (CLIENTS_OWN_BUT_429, BAD_CODES_AND_429) if choice.count_429 else (CLIENTS_OWN, BAD_CODES)
        known = {"service": self.service, "env": self.env, "namespace": self.namespace or "",
                 "clients_own": codes[0], "bad": codes[1]}  # fmt: skip
        for name, value in known.items():
            text = text.replace(f"{{{name}}}", value)
        return text


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked of Prometheus: `requests`, `errors` and perhaps `slow`, each a series by track; `metrics` names whose counters."""

    queries: Mapping[str, str]
    metrics: str
    hint: str = ""
    """What to say where a series of `slow` is missing."""
    is_lagging: bool = False
    """`slow` may be counted later than `requests`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A profile as it is read in one place: the workspace's words over the profile's own."""

    profile: Profile
    choice: ProfileChoice
    place: Place
    where: tuple[Match, ...] = field(init=False)
    track_label: str = field(init=False)
    tracks: Mapping[str, str] = field(init=False)
    slow_ms: float = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "where", self._over(self.profile.where))
        put(self, "track_label", self.choice.track_label or self.profile.track_label)
        said = {str(name): text for name, text in self.choice.tracks.items()} or self.profile.tracks
        put(self, "tracks", {name: self.place.fill(text, self.choice) for name, text in said.items()})
        put(self, "slow_ms", self.choice.slow * 1000 if self.choice.slow else self.place.slow_ms)

    def _over(self, own: tuple[Match, ...]) -> tuple[Match, ...]:
        """The profile's matchers, with the workspace's in the place of those of the same label."""
        ours = tuple(_match_of(label, text) for label, text in self.choice.labels.items())
        kept = tuple(m for m in own if m.label not in self.choice.labels)
        return tuple(replace(m, value=self.place.fill(m.value, self.choice)) for m in (*kept, *ours))

    def matchers(self, *more: Match) -> str:
        """The inside of a selector."""
        extra = tuple(replace(m, value=self.place.fill(m.value, self.choice)) for m in more)
        return ",".join(f"{m.label}{m.op}{_quoted(m.value)}" for m in (*self.where, *extra))

    @property
    def scope(self) -> str:
        """The inside of a selector of all that is the service's."""
        return self.matchers(Match(self.track_label, "=~", "|".join(self.tracks.values())))

    def by_track(self, *counters: Counter) -> str:
        """PromQL: the counters' sum by exporter and track."""
        parts = []
        for number, counter in enumerate(counters):
            for track, value in self.tracks.items():
                inside = self.matchers(*counter.where, Match(self.track_label, "=~", value))
                series = f"{counter.metric}{{{inside}}}"
                named = f'label_replace({series}, "track", "{track}", "{self.track_label}", ".*")'
                # Series of two metrics may have the same labels, and `or` would drop the second.
                parts.append(
                    named
                    if len(counters) == 1
                    else f'label_replace({named}, "part", "{number}", "{self.track_label}", ".*")'
                )
        return f"sum by (instance, track) ({' or '.join(parts)})"

    @property
    def bound(self) -> str:
        """The threshold as a bucket's bound, in the histogram's unit."""
        return format(self.slow_ms / 1000 / self.profile.slow.unit_s, ".12g") if self.profile.slow else ""

    def _slow(self) -> str:
        """PromQL: how many took longer than the threshold."""
        took = self.profile.slow
        assert took is not None
        # Prometheus 3 writes a whole bound as 500.0, 2 as the exporter did.
        bound = Match("le", "=~", self.bound.replace(".", "[.]") + ("" if "." in self.bound else "([.]0)?"))
        quick = self.by_track(Counter(f"{took.metric}_bucket", (*took.where, bound)))
        return f"{self.by_track(Counter(f'{took.metric}_count', took.where))} - {quick}"

    def questions(self) -> Questions:
        """What the judge needs of it."""
        requests = self.by_track(*self.profile.requests)
        queries = {
            "requests": requests,
            "errors": f"{self.by_track(*self.profile.errors)} or 0 * {requests}",
        }
        hint = ""
        if (took := self.profile.slow) and self.choice.latency:
            queries["slow"] = self._slow()
            hint = f"is {self.bound} a bound of {took.metric}'s buckets? `airboss doctor` lists them"
        return Questions(queries, ", ".join(counter.metric for counter in self.profile.requests), hint, is_lagging=True)

    def words(self, window: str, step: str) -> dict[str, str]:
        """Word → PromQL: requests a second, shares of errors and slow ones (0..1), by track; and what else there is.

        The judge's own sums are rated, at each `step`: the rate of a series that is born with its first error does not see that error.
        """
        namespace = self.place.namespace or self.choice.labels.get("namespace") or ".+"
        filled = {"$where": self.scope, "$window": window, "$track": self.track_label, "$service": self.place.service}
        filled["$namespace"] = namespace
        known = dict(self.profile.more)
        for name, value in filled.items():
            known = {word: query.replace(name, value) for word, query in known.items()}
        if self.profile.requests:
            asked = self.questions().queries
            rates = {word: f"sum by (track) (rate(({query})[{window}:{step}]))" for word, query in asked.items()}
            known |= {word: f"{rate} / {rates['requests']}" for word, rate in rates.items()}
            known["requests"] = rates["requests"]
        return known


def _match_of(label: str, text: str) -> Match:
    return Match(label, "=~", text[1:]) if text.startswith("~") else Match(label, "=", text)


def _quoted(text: str) -> str:
    """A PromQL string: Go's escapes, which JSON's are a part of."""
    return json.dumps(text, ensure_ascii=False)


Ask = Callable[[str, str], Questions]
"""(service, env) → what is asked."""
