"""Every profile by its name, and a profile as it is read in one place."""

from __future__ import annotations

from collections.abc import Mapping

from adapters.profiles import (
    envoy_gateway,
    istio,
    nanogpt,
    nginx_gateway_fabric,
    opentelemetry,
    opentelemetry_genai,
    own,
    triton,
    vllm,
)
from adapters.profiles.profile import Place, Profile, Questions, Reading
from state.metrics_config import ProfileChoice
from state.words import UsageError

PROFILES: Mapping[str, Profile] = {
    one.PROFILE.name: one.PROFILE
    for one in (
        own,
        istio,
        envoy_gateway,
        vllm,
        triton,
        nanogpt,
        opentelemetry,
        opentelemetry_genai,
        nginx_gateway_fabric,
    )
}


def reading_of(choice: ProfileChoice, place: Place) -> Reading:
    """The chosen profile, read in `place`."""
    return Reading(PROFILES[choice.name], choice, place)


def questions_of(choice: ProfileChoice, place: Place) -> Questions:
    """What is asked of Prometheus. Raises UsageError where the profile's server does not count what a judge needs."""
    reading = reading_of(choice, place)
    if reading.profile is own.PROFILE:
        return own.questions_of(reading)
    if not reading.profile.requests:
        raise UsageError(f"profile {choice.name}: {reading.profile.cannot}", code="profile")
    return reading.questions()
