"""OpenTelemetry's metric of a model server, as Prometheus names it; status Development: names may move. A track is told as in `opentelemetry`.

Source: opentelemetry.io, Semantic conventions for generative AI metrics: `gen_ai.server.request.duration` (seconds, to the last token),
`error.type` if it ended with an error; advised bounds 0.01, 0.02, 0.04, … 81.92. An error.type that is a 4xx is the caller's.
"""

from __future__ import annotations

from adapters.profiles import opentelemetry
from adapters.profiles.profile import Counter, Histogram, Match, Profile

_COUNT = "gen_ai_server_request_duration_seconds_count"
_COUNTED = Match("error_type", "!~", "{clients_own}")

PROFILE = Profile(
    name="opentelemetry-genai",
    title="OpenTelemetry model servers (gen_ai.server)",
    source="opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics",
    track_label="job",
    tracks=opentelemetry.PROFILE.tracks,
    requests=(Counter(_COUNT, (_COUNTED,)),),
    errors=(Counter(_COUNT, (_COUNTED, Match("error_type", "!=", ""))),),
    slow=Histogram("gen_ai_server_request_duration_seconds", 1.0, (_COUNTED,)),
    lacks={
        "errors": "what the router could not deliver is not counted; a caller's own mistake is an error where error_type is no code",
        "tokens": "gen_ai.client.token.usage is the caller's",
        "queue": "there is no such metric in the conventions",
        "gpu": "there is no such metric in the conventions",
    },
)
