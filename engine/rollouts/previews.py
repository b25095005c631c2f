"""How a person reaches a release that gets no traffic yet: by a header, or where a Service alone switches, by a Service of its own. Pure."""

from __future__ import annotations

from typing import NamedTuple

from adapters.routing import PREVIEW_HEADER
from state.config import Config


class Preview(NamedTuple):
    """`by` is what tells the request from others, `at` where it is sent."""

    by: str
    at: str


def preview_of(config: Config, service: str, env: str, release_id: str, gateway_url: str = "") -> Preview:
    """The preview of `release_id`; `gateway_url` is where people reach our gateway."""
    environment = config.environment.get(env)
    target = environment.cluster if environment is not None else None
    if target is None or target.traffic == "gateway":
        return Preview(f"{PREVIEW_HEADER}: {release_id}", f"{gateway_url}/{env}/{service}/v1/")
    if target.traffic == "service":
        return Preview(f"Service {service}-preview", f"namespace {target.namespace}, every request")
    return Preview(f"{PREVIEW_HEADER}: {release_id}", f"HTTPRoute {target.route or service}")
