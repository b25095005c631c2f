"""How a route treats its requests beyond weights: frozen values that travel in the routing table with the route.

Every field has a default, so that a table of an older engine reads as the plain behaviour. `state/routing_config.py` is
the same in `airboss.toml`; `engine/gateway/routing/` is what acts on it.
"""

from __future__ import annotations

from dataclasses import dataclass

PREVIEW_HEADER = "x-airboss-preview"
"""By it a person reaches a release that gets no traffic yet: its value is the release."""


@dataclass(frozen=True, slots=True)
class TrackRule:
    """Requests whose header, or cookie, fits go to `track` before any weight is asked.

    Exactly one of `header` and `cookie`, and exactly one of `equals`, `matches` (a regular expression for the whole
    value) and `present`. A track of weight 0 is left out unless `at_zero`: it may be what was just rolled back.
    """

    track: str
    header: str = ""
    cookie: str = ""
    equals: str | None = None
    matches: str | None = None
    present: bool | None = None
    at_zero: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """How weights divide requests. `by` is "random", or "hash" of the named header or cookie, else of who asks."""

    by: str = "random"
    header: str = ""
    cookie: str = ""


@dataclass(frozen=True, slots=True)
class Sticky:
    """A cookie that the gateway sets, so that a browser's session stays on its track. "" sets none."""

    cookie: str = ""
    ttl_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Mirror:
    """What share of requests, in percent, is copied to the shadow track, and what the copies may use of this worker."""

    share: float = 0.0
    queue: int = 64
    concurrency: int = 4
    deadline_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Retry:
    """When sent work may be asked for again: at most `budget_pct` percent of the last `window_s` requests + `minimum`.

    `answer_timeout_s`: a replica that has not begun its answer by then is given up (0: only the deadline does that).
    """

    budget_pct: float = 20.0
    minimum: int = 3
    window_s: float = 10.0
    answer_timeout_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """When one replica is left out though it answers pings. Counts are requests in a row; 0 turns a check off.

    The n-th ejection lasts `ejection_s` * 2^(n-1), at most `ejection_max_s`. At most `max_ejected_pct` percent of a track's
    replicas are out at once, and never its last healthy one.
    """

    consecutive_5xx: int = 5
    consecutive_breaks: int = 3
    success_gap_pct: float = 30.0
    """Out when its success rate lies this far below the mean of its siblings'."""
    min_requests: int = 50
    """Fewer in `interval_s` are no success rate."""
    interval_s: float = 10.0
    ejection_s: float = 5.0
    ejection_max_s: float = 300.0
    max_ejected_pct: int = 50


@dataclass(frozen=True, slots=True)
class Stage:
    """What changes once the route is `at` percent full: shorter answers, the fallback service, or a class shed."""

    at: int
    cap_max_tokens: int = 0
    fallback: bool = False
    shed: str = ""


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """How full a route may be, on one worker. A class is admitted while the route is less full than its percent.

    `max_inflight` 0 is the worker's own limit.
    """

    max_inflight: int = 0
    interactive: int = 100
    batch: int = 80
    background: int = 50
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True, slots=True)
class Tier:
    """A service that may answer for another one. `busy_at`: percent of its in-flight limit from which it is passed over."""

    service: str
    quality: int = 0
    cost: float = 0.0
    busy_at: int = 80


@dataclass(frozen=True, slots=True)
class ModelRule:
    """Requests that fit go to service `to`. Every condition given must hold; sizes are "at least"."""

    to: str
    prompt_chars: int | None = None
    max_tokens: int | None = None
    header: str = ""
    equals: str | None = None
    request_class: str = ""


@dataclass(frozen=True, slots=True)
class Choose:
    """Which service answers: `rules` first, then `policy` ("" is this one, "quality_first", "cost_first") over `tiers`.

    `fallback` answers, in order, when the chosen one has no healthy replica, all its breakers are open, it is past its
    token budget, or a load stage says so. `budget_tokens` are tokens in `budget_window_s`, of one worker; 0 is no budget.
    """

    policy: str = ""
    tiers: tuple[Tier, ...] = ()
    rules: tuple[ModelRule, ...] = ()
    fallback: tuple[str, ...] = ()
    budget_tokens: int = 0
    budget_window_s: float = 3600.0

    def targets(self) -> tuple[str, ...]:
        """Every other service this may lead to."""
        return (*(tier.service for tier in self.tiers), *(rule.to for rule in self.rules), *self.fallback)


@dataclass(frozen=True, slots=True)
class Routing:
    """Everything of one route beside its weights. `max_body_bytes` 0 is the gateway's own limit."""

    rules: tuple[TrackRule, ...] = ()
    split: Split = Split()
    sticky: Sticky = Sticky()
    mirror: Mirror = Mirror()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    load: LoadLimits = LoadLimits()
    choose: Choose = Choose()
    max_body_bytes: int = 0


PLAIN = Routing()
"""How a route behaves that says nothing."""
