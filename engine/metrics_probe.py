"""Whether Prometheus has what each service's profile asks for: looked at as the engine starts, every minute, and when asked."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from sqlmodel import Session, select

from adapters.profiles.probe import Probed, probe
from adapters.prometheus import PrometheusMetrics
from adapters.prometheus_server import no_answer
from engine.metrics_source import profile_of
from state.config import Config
from state.models import TrackState
from state.store import Store
from state.words import AirbossError

log = logging.getLogger("airboss.metrics")
EVERY_S = 60.0


class MetricsProbe:
    """Remembers what it saw last, in `seen`."""

    def __init__(self, config: Config, source: PrometheusMetrics | None, store: Store) -> None:
        self._config, self._source, self._store = config, source, store
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="probe")
        self.seen: tuple[dict[str, Any], ...] = ()

    async def run(self) -> None:
        """Look now and every minute; without a Prometheus there is nothing to look at."""
        while self._source is not None:
            try:
                await self.look()
            except Exception:
                log.exception("the metrics could not be looked at; it is tried again")
            await asyncio.sleep(EVERY_S)
        await asyncio.Event().wait()

    async def look(self) -> tuple[dict[str, Any], ...]:
        """How each profile stands now: `level` is ok or warn, `says` a sentence."""
        if self._source is None:
            return ()
        live = await self._store.read(_live)
        found = []
        for service in self._config.service:
            for env in self._config.environment:
                if (service, env) in live or len(self._config.environment) == 1 or not live:
                    found.append(await self._one(service, env, (service, env) in live))
        self.seen = tuple(found)
        return self.seen

    async def _one(self, service: str, env: str, is_live: bool) -> dict[str, Any]:
        source = self._source
        assert source is not None
        reading = profile_of(self._config, service, env)
        try:
            seen = await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: probe(reading, source.server)
            )
        except AirbossError as error:
            seen = Probed(service, env, reading.profile.name, trouble=f"{source.url} {error.message}")
        except Exception as error:
            # requests' and urllib3's errors alike: no answer came.
            seen = Probed(
                service, env, reading.profile.name, trouble=f"{source.url} does not answer: {no_answer(error)}"
            )
        is_early = seen.is_idle and not is_live
        says = seen.trouble or f"{', '.join(seen.tracks)} counted"
        return {
            **asdict(seen), "level": "warn" if seen.trouble and not is_early else "ok", "is_live": is_live,
            "says": f"nothing is live yet; {says}" if is_early else says,
        }  # fmt: skip


def _live(session: Session) -> set[tuple[str, str]]:
    return {(row.service, row.env) for row in session.exec(select(TrackState))}
