"""The front desk: every check between a request's arrival and its way to a replica, in one place and one order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from multidict import CIMultiDict

from adapters.ports import Route
from engine.gateway.access.admission import Admission
from engine.gateway.access.auth import CREDENTIAL_HEADERS, Authenticator, forbidden
from engine.gateway.access.identity import Identity
from engine.gateway.access.prompt import estimated_tokens
from engine.gateway.access.quota import Quota
from state.access_config import AccessConfig

TENANT_HEADER = "X-Airboss-Tenant"
CLASS_HEADER = "X-Airboss-Class"


class Desk:
    """Who may ask, and how much. Costs nothing for what is not configured."""

    def __init__(self, config: AccessConfig, gateway_dir: Path) -> None:
        """Reads keys. Raises UsageError when they cannot be used: a gateway that cannot check lets nobody in."""
        self.config = config
        self.authenticator = Authenticator(config, gateway_dir)
        self.quota = Quota(config.rate, config.workers)

    def identify(self, headers: Mapping[str, str]) -> Identity | None:
        """Who asks; None when nobody is asked. Raises Refused (401)."""
        return self.authenticator.identify(headers) if self.authenticator.is_on else None

    def admit(self, identity: Identity | None, route: Route, peer: str, body: bytes) -> Admission | None:
        """Let a routed request in. None when nothing is known or wanted of it. Raises Refused (403, 429)."""
        if identity is not None and not identity.may_use(route.service):
            raise forbidden(identity, route.service)
        admission = None
        limits = self.quota.limits_of(identity, peer) if self.quota.is_on or identity is not None else ()
        if limits:
            ticket = self.quota.admit(limits, lambda: estimated_tokens(body))
            admission = Admission(identity, self.quota, ticket, self.quota.headers(ticket))
        elif identity is not None:
            admission = Admission(identity, self.quota)
        return admission

    def upstream(self, headers: CIMultiDict[str], identity: Identity | None) -> None:
        """Tell the replica who asks, and keep the caller's credential to ourselves."""
        if identity is None:
            return
        for name in CREDENTIAL_HEADERS:
            headers.popall(name, None)
        if identity.tenant:
            headers[TENANT_HEADER] = identity.tenant
        if identity.request_class:
            headers[CLASS_HEADER] = identity.request_class
