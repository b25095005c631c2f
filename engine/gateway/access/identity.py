"""Who asks, as far as the gateway knows it."""

from __future__ import annotations

from dataclasses import dataclass

from state.access_config import RateLimit


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that has proven who it is. `name` is what the ledger has: `key:NAME` or `jwt:SUBJECT`."""

    name: str
    tenant: str = ""
    request_class: str = ""
    services: frozenset[str] = frozenset()
    """The services it may ask; none named means all."""
    rate: RateLimit | None = None
    """Its own limit, instead of the configured one for keys."""
    is_prober: bool = False
    """The engine's own prober."""

    def may_use(self, service: str) -> bool:
        """Whether `service` is open to it."""
        return not self.services or service in self.services


PROBER = Identity("prober", is_prober=True)
