"""What was found out about one request when it was let in, and what is to be done with its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.gateway.access.identity import Identity
from engine.gateway.access.quota import Quota, Ticket
from state.words import BadClass

if TYPE_CHECKING:
    from engine.gateway.exchange import Exchange


ACCESS_REJECTIONS = ("unauthenticated", "forbidden", "rate_limited", "token_limited")
"""Why the front desk refused a request. None of them is the service's fault."""


@dataclass(slots=True, eq=False)
class Admission:
    """Travels with the call. A call of a gateway that checks nothing has none."""

    identity: Identity | None
    quota: Quota
    ticket: Ticket | None = None
    answer_headers: dict[str, str] = field(default_factory=dict)
    """Said to the client with the answer."""

    @property
    def tenant(self) -> str:
        """Whose request it is, "" when nobody was asked."""
        return self.identity.tenant if self.identity else ""

    @property
    def request_class(self) -> str:
        """The class its key or token gives it, "" for none."""
        return self.identity.request_class if self.identity else ""

    def ended(self, exchange: Exchange) -> None:
        """The request has ended: put right what was only estimated."""
        if self.ticket is None:
            return
        tokens = exchange.tokens_in + exchange.tokens_out
        if tokens and not exchange.tokens_in:
            tokens = self.ticket.tokens  # a stream that states no usage: its own events are no count of its prompt
        elif not tokens and exchange.outcome is BadClass.OK:
            tokens = self.ticket.tokens
        self.quota.settle(self.ticket, tokens)
