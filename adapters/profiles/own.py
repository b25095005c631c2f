"""The counters of our own gateway: tracks are labels, classes of outcomes are codes, and slow ones are counted as such."""

from __future__ import annotations

from adapters.profiles.profile import COUNTED_TRACKS, Counter, Match, Profile, Questions, Reading
from state.words import COUNTS_AND_BAD, BadClass

_COUNTED = "|".join(c.value for c in BadClass if COUNTS_AND_BAD[c][0])
_BAD = "|".join(c.value for c in BadClass if COUNTS_AND_BAD[c] == (True, True))

METRICS_PORT = "[gateway] metrics_listen gives each worker a page, and `airboss export rules` writes what to scrape"
_REQUESTS, _SLOW = "airboss_requests_total", "airboss_slow_requests_total"

PROFILE = Profile(
    name="airboss",
    title="Airboss' own gateway",
    source="engine/gateway/README.md",
    where=(Match("service", "=", "{service}"), Match("env", "=", "{env}")),
    track_label="track",
    tracks={track.value: track.value for track in COUNTED_TRACKS},
    requests=(Counter(_REQUESTS, (Match("code", "=~", _COUNTED),)),),
    errors=(Counter(_REQUESTS, (Match("code", "=~", _BAD),)),),
    more={
        "slow": f'sum by (track) (rate({_SLOW}{{$where}}[$window])) / sum by (track) (rate({_REQUESTS}{{$where,code=~"{_COUNTED}"}}[$window]))',
        "tokens": "sum by (track, direction) (rate(airboss_tokens_total{$where}[$window]))",
    },
    lacks={
        "queue": "airboss_inflight_requests is of the whole gateway; a model server's is vllm:num_requests_waiting",
        "gpu": "the gateway has none; NVIDIA's dcgm-exporter counts by pod",
    },
)


def questions_of(reading: Reading) -> Questions:
    """Each worker's own series as they are: every one of them is there from its first scrape, at zero."""

    (requests,), (errors,) = PROFILE.requests, PROFILE.errors
    queries = {
        "requests": f"{_REQUESTS}{{{reading.matchers(*requests.where)}}}",
        "errors": f"{_REQUESTS}{{{reading.matchers(*errors.where)}}}",
        "slow": f"{_SLOW}{{{reading.matchers()}}}",
    }
    return Questions(queries, _REQUESTS)
