"""Drift of live prompts and answers from the training snapshot, and what requests cost against their ceiling, looked at again and again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from engine.observe.conditions import Firing
from engine.observe.drift_scores import Drift, score
from engine.observe.rates import Recent
from engine.text_shape import Shape, shape_of_corpus
from state.config import Config
from state.measures_config import QualityConfig
from state.models import Dataset, Release, TrackState
from state.store import Store
from state.words import Severity, Track

WINDOW_S = 3600.0
COST_WINDOW_S = 300.0
COST_MIN_REQUESTS = 200
TRAIN = "train.txt"
CORPUS_CHARS = 2_000_000
NAMES = {"prompt": "PromptDrift", "answer": "AnswerDrift"}


@dataclass(frozen=True, slots=True)
class TextDrift:
    """How far a live release's prompts or answers lie from what it was trained on; `trouble` says why that is not known."""

    service: str
    env: str
    release: str
    dataset: str
    what: str
    drift: Drift | None
    beyond: tuple[str, ...] = ()
    trouble: str = ""

    def says(self) -> str:
        """The numbers with their sample sizes, in a sentence."""
        d = self.drift
        if d is None:
            return self.trouble
        if d.kl is None or d.psi is None or d.kl_low is None or d.psi_low is None:
            return f"too few {self.what}s: {d.texts} of {d.needed} in the last hour"
        ks = f", KS {d.ks:.2f} (p {d.ks_p:.2g})" if d.ks is not None and d.ks_p is not None else ""
        return (
            f"KL {d.kl:.3f} nats (at least {d.kl_low:.3f}), PSI {d.psi:.3f} (at least {d.psi_low:.3f}){ks};"
            f" {d.texts} {self.what}s, {d.chars} characters, against {d.trained_chars} of dataset/{self.dataset}"
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What a service's requests cost now, US dollars; a ceiling of 0 is none. None where nothing was counted."""

    service: str
    env: str
    requests: int
    per_request: float | None
    per_1k_tokens: float | None
    max_per_request: float
    max_per_1k_tokens: float

    @property
    def over(self) -> tuple[str, ...]:
        """The ceilings that the mean is above, with enough requests to say so."""
        if self.requests < COST_MIN_REQUESTS:
            return ()
        pairs = (
            ("a request", self.per_request, self.max_per_request),
            ("1,000 tokens", self.per_1k_tokens, self.max_per_1k_tokens),
        )
        return tuple(
            f"${value:.3g} for {what}, the budget is ${ceiling:.3g}"
            for what, value, ceiling in pairs
            if ceiling and value is not None and value > ceiling
        )

    def says(self) -> str:
        """The numbers beside their ceilings."""
        if self.per_request is None:
            return "no requests in the last 5 minutes"
        tokens = (
            ""
            if self.per_1k_tokens is None
            else f", ${self.per_1k_tokens:.3g} for 1,000 tokens{_of(self.max_per_1k_tokens)}"
        )
        return f"${self.per_request:.3g} for a request{_of(self.max_per_request)}{tokens}; {self.requests} requests in 5 minutes"


def _of(ceiling: float) -> str:
    return f" of ${ceiling:.3g}" if ceiling else ""


class DriftWatch:
    """Looks every so often; what it found last is `drifts`."""

    def __init__(self, store: Store, config: Config, directory: Path) -> None:
        self.drifts: tuple[TextDrift, ...] = ()
        self._store = store
        self._config = config
        self._directory = directory
        self._trained: dict[str, Shape] = {}

    async def look(self, now: float) -> None:
        """Read the last hour's counts and compare them with each live release's own training text."""
        watched = {name: s.quality for name, s in self._config.service.items() if s.quality.drift}
        if not watched:
            self.drifts = ()
            return
        live = await self._store.read(lambda s: _live(s, frozenset(watched)))
        self.drifts = await asyncio.to_thread(lambda: tuple(self._compare(live, watched, now)))

    def _compare(
        self, live: Iterable[tuple[str, str, str, str, str]], watched: Mapping[str, QualityConfig], now: float
    ) -> Iterator[TextDrift]:
        blocks = read_shapes(self._directory, now - WINDOW_S)
        for service, env, release, dataset, path in live:
            quality = watched[service]
            for what in NAMES:
                try:
                    trained = self._shape_of(dataset, path)
                except OSError as error:
                    yield TextDrift(
                        service,
                        env,
                        release,
                        dataset,
                        what,
                        None,
                        trouble=f"the training text cannot be read: {error.strerror}",
                    )
                    continue
                drift = score(blocks.get((service, env, release, what), []), trained, quality.drift_min_texts)
                yield TextDrift(
                    service, env, release, dataset, what, drift, drift.beyond(quality.drift_kl, quality.drift_psi)
                )

    def _shape_of(self, dataset: str, path: str) -> Shape:
        if dataset not in self._trained:
            with (Path(path) / TRAIN).open(encoding="utf-8") as file:
                self._trained[dataset] = shape_of_corpus(file.read(CORPUS_CHARS))
        return self._trained[dataset]


def _live(session: Session, services: frozenset[str]) -> list[tuple[str, str, str, str, str]]:
    """(service, environment, release, data set, its folder) of every stable release that serves and has a data set."""
    rows = session.exec(
        select(TrackState, Release, Dataset)
        .where(
            TrackState.track == Track.STABLE.value, col(TrackState.weight) > 0, col(TrackState.service).in_(services)
        )
        .join(Release, col(Release.id) == TrackState.release_id)
        .join(Dataset, col(Dataset.id) == Release.dataset_id)
        .order_by(TrackState.service, TrackState.env)
    )
    return list(dict.fromkeys((t.service, t.env, r.id, d.id, d.path) for t, r, d in rows))


def read_shapes(directory: Path, since: float) -> dict[tuple[str, str, str, str], list[Shape]]:
    """(service, env, release, what) → the blocks of time that the workers wrote since. Blocks; a torn line is none."""
    found: dict[tuple[str, str, str, str], list[Shape]] = defaultdict(list)
    for path in sorted(directory.glob("shapes-*.jsonl")):
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            continue  # rotated away
        for line in lines:
            try:
                body = json.loads(line)
                if float(body["at"]) < since:
                    continue
                for row in body["rows"]:
                    key = (row["service"], row["env"], row["release"], row["what"])
                    found[key].append(Shape(int(row["texts"]), _counts(row["chars"]), _counts(row["words"])))
            except (ValueError, KeyError, TypeError):
                continue
    return dict(found)


def _counts(body: Mapping[str, Any]) -> Counter[int]:
    return Counter({int(at): int(n) for at, n in body.items()})


def costs(config: Config, recent: Recent, now: float) -> tuple[Cost, ...]:
    """What the last minutes' requests cost, of every service whose replicas have a price."""
    found = []
    for service, settings in config.service.items():
        if not settings.cost.usd_per_hour:
            continue
        for env in config.environment:
            rows = recent.rows(service, env, now - COST_WINDOW_S)
            if not rows:
                continue
            requests, tokens = sum(r.requests for r in rows), sum(r.tokens for r in rows)
            usd = sum(r.busy_s for r in rows) * settings.cost.usd_per_hour / 3600
            found.append(
                Cost(
                    service, env, requests, usd / requests if requests else None, 1000 * usd / tokens if tokens else None,
                    settings.cost.max_usd_per_request, settings.cost.max_usd_per_1k_tokens,
                )
            )  # fmt: skip
    return tuple(found)


def firing(drifts: Iterable[TextDrift], spent: Iterable[Cost]) -> Iterator[Firing]:
    """The alerts of drift and of cost."""
    for one in drifts:
        if one.beyond:
            yield Firing(
                NAMES[one.what],
                Severity.TICKET,
                f"{one.what}s of {one.service} in {one.env} drift from what {one.release} was trained on"
                f" ({' and '.join(one.beyond)}): {one.says()}; look at them, or retrain (a trigger on this alert proposes it)",
                one.service,
                one.env,
                {"release": one.release},
            )
    for cost in spent:
        if cost.over:
            yield Firing(
                "CostOverBudget",
                Severity.TICKET,
                f"{cost.service} in {cost.env} costs {' and '.join(cost.over)} (mean of {cost.requests} requests)",
                cost.service,
                cost.env,
                for_s=60.0,
            )
