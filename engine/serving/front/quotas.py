"""Who may have how much of this replica: queue classes with their shares, and tenants with their quotas.

A tenant is who the gateway says it is (`x-airboss-tenant`), else the body's `user`, else nobody, who has no quota.
Windows are counted on the monotonic clock: setting the host's clock neither frees nor locks anybody.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from limits import RateLimitItemPerMinute
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from engine.serving.front.errors import ApiError, invalid
from engine.serving.settings import ServingSettings


class QueueClass(StrEnum):
    """How urgent a request is. Those that wait are served in this order."""

    INTERACTIVE = "interactive"
    BATCH = "batch"
    BACKGROUND = "background"

    @property
    def priority(self) -> int:
        """For SamplingParams: lower goes first."""
        return {QueueClass.INTERACTIVE: 0, QueueClass.BATCH: 10, QueueClass.BACKGROUND: 20}[self]

    def places(self, settings: ServingSettings) -> int:
        """Generations of this class that may be here at once, waiting or running."""
        share = settings.queue_shares[self.value]
        return settings.max_batch + int(share * settings.max_queue)


class Quotas:
    """What tenants have in flight and spent. Lives in the event loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_flight: Counter[str] = Counter()
        self._limiter = FixedWindowRateLimiter(_MonotonicStorage(clock))

    def admit(self, tenant: str, prompt_tokens: int, settings: ServingSettings, time_to_room_s: float) -> None:
        """Count a request in, or raise ApiError: 429 when its tenant has too many here, or has spent its minute."""
        if not tenant:
            return
        quota = settings.quota(tenant)
        if quota.max_inflight and self._in_flight[tenant] >= quota.max_inflight:
            raise _limited(
                f"user {tenant!r} has {quota.max_inflight} requests here already; wait for one to end", time_to_room_s
            )
        per_minute = quota.tokens_per_minute
        if per_minute:
            item = RateLimitItemPerMinute(per_minute)
            if prompt_tokens > per_minute:
                raise invalid(
                    f"the prompt has {prompt_tokens} tokens, and user {tenant!r} may use {per_minute} a minute: "
                    "send a shorter prompt, or ask for a larger quota",
                    "prompt",
                    code="quota_exceeded",
                )
            if not self._limiter.test(item, tenant, cost=prompt_tokens):
                wait_s = max(0.0, self._limiter.get_window_stats(item, tenant).reset_time - self._clock())
                raise _limited(
                    f"user {tenant!r} has used the {per_minute} tokens of this minute; "
                    f"ask again in {max(1, round(wait_s))} s",
                    wait_s,
                )
            self._limiter.hit(item, tenant, cost=prompt_tokens)
        self._in_flight[tenant] += 1

    def release(self, tenant: str, completion_tokens: int, settings: ServingSettings) -> None:
        """Count a request out, and what it generated. Answers are charged as generated, not as asked for."""
        if not tenant:
            return
        self._in_flight[tenant] -= 1
        if self._in_flight[tenant] <= 0:
            del self._in_flight[tenant]
        per_minute = settings.quota(tenant).tokens_per_minute
        if per_minute and completion_tokens:
            self._limiter.hit(RateLimitItemPerMinute(per_minute), tenant, cost=completion_tokens)


class _MonotonicStorage(Storage):
    """Counters in memory, on a clock that only goes forward: limits' own storage follows the host's wall clock."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._counters: dict[str, tuple[int, float]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        """Nothing here can fail as a connection could."""
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a counter; a new one lives for `expiry` seconds."""
        self._forget_expired()
        count, until = self._counters.get(key, (0, self._clock() + expiry))
        self._counters[key] = (count + amount, until)
        return count + amount

    def get(self, key: str) -> int:
        """A counter's value."""
        count, until = self._counters.get(key, (0, 0.0))
        return count if until > self._clock() else 0

    def get_expiry(self, key: str) -> float:
        """When a counter begins anew, on this storage's clock."""
        return self._counters.get(key, (0, self._clock()))[1]

    def check(self) -> bool:
        """Memory is always there."""
        return True

    def reset(self) -> int:
        """Forget everything."""
        count = len(self._counters)
        self._counters.clear()
        return count

    def clear(self, key: str) -> None:
        """Forget a counter."""
        self._counters.pop(key, None)

    def _forget_expired(self) -> None:
        now = self._clock()
        for key in [key for key, (_, until) in self._counters.items() if until <= now]:
            del self._counters[key]


def _limited(message: str, retry_after_s: float) -> ApiError:
    return ApiError(
        429,
        message,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        param="user",
        retry_after_s=retry_after_s,
        rejection="user_limit",
    )
