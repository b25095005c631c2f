"""What was found out about one request when it was let in, and what is to be done with its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.gateway.access.cache import AnswerCache
from engine.gateway.access.identity import Identity
from engine.gateway.access.passage import Passage
from engine.gateway.access.quota import Quota, Ticket
from engine.gateway.access.safety.review import Review
from state.words import BadClass

if TYPE_CHECKING:
    from engine.gateway.exchange import Exchange

ACCESS_REJECTIONS = ("unauthenticated", "forbidden", "rate_limited", "token_limited", "content_policy")
"""Why the front desk refused a request. None of them is the service's fault."""


@dataclass(slots=True, eq=False)
class Admission:
    """Travels with the call. A call of a gateway that checks nothing has none."""

    identity: Identity | None
    quota: Quota
    cache: AnswerCache
    ticket: Ticket | None = None
    answer_headers: dict[str, str] = field(default_factory=dict)
    """Said to the client with the answer."""
    review: Review | None = None
    passage: Passage | None = None
    """What the answer goes through on its way to the client; None: it is passed on as it is."""

    @property
    def tenant(self) -> str:
        """Whose request it is, "" when nobody was asked."""
        return self.identity.tenant if self.identity else ""

    @property
    def request_class(self) -> str:
        """The class its key or token gives it, "" for none."""
        return self.identity.request_class if self.identity else ""

    @property
    def scope(self) -> str:
        """Within which answers may be shared: the tenant, or the one caller that has none."""
        if self.identity is None:
            return ""
        return f"tenant/{self.tenant}" if self.tenant else self.identity.name

    def ended(self, exchange: Exchange) -> None:
        """The request has ended: put right what was only estimated, keep what may be given again."""
        if self.ticket is not None:
            self.quota.settle(self.ticket, self._tokens(exchange, self.ticket))
        keeping = self.passage.keeping if self.passage is not None else None
        if keeping is not None:
            if exchange.outcome is BadClass.OK and exchange.backend is keeping.backend:
                self.cache.put(keeping)
            self.cache.landed(keeping)

    def notes(self) -> dict[str, object]:
        """What the ledger says of it, beside what it says of every request."""
        notes: dict[str, object] = {"tenant": self.tenant} if self.tenant else {}
        if self.review is not None and self.review.verdicts:
            notes["checks"] = dict(self.review.verdicts)
        return notes

    def _tokens(self, exchange: Exchange, ticket: Ticket) -> int:
        """What the request took, as far as its answer says; the estimate where an answer says nothing."""
        tokens = exchange.tokens_in + exchange.tokens_out
        is_silent = not exchange.tokens_in if tokens else exchange.outcome is BadClass.OK
        return ticket.tokens if is_silent else tokens
