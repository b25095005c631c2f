"""`service ask`: one request through the gateway, as a user sends it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.output import Outcome, Text
from state.pinned import pinned_context
from state.words import AirbossError, OperationFailed, TimedOut, Unreachable, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context

TIMEOUT_S = 60.0


def gateway_address(context: Context) -> str:
    """The public address: the engine's word, else the configuration's. Raises Unreachable when the port is not known."""
    try:
        return str(context.get("/v1/status")["gateway"])
    except Unreachable:
        host, port = context.config.gateway.address
        if port == 0:
            raise
        scheme = "https" if context.config.gateway.tls_cert else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def credential() -> dict[str, str]:
    """The header that says who asks, where AIRBOSS_API_KEY holds a key or a token."""
    key = os.environ.get("AIRBOSS_API_KEY", "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def own_certificate(context: Context, url: str) -> Path | None:
    """The certificate that the workspace's own gateway is known by; None where the system has to vouch for it."""
    certificate = context.config.gateway.tls_cert if url.startswith("https:") and not context.engine_url else None
    return context.paths.root / certificate if certificate else None


def shown_certificate(context: Context) -> Path | None:
    """What this workspace's own programs show a gateway that asks clients for certificates: the prober's."""
    path = context.paths.gateway / "probe.pem"
    return path if context.config.gateway.tls_client_ca and path.exists() else None


def ask(
    context: Context,
    *,
    service: str,
    prompt: str,
    env: str | None,
    max_tokens: int,
    temperature: float | None,
    seed: int | None,
    whom: dict[str, str] | None = None,
) -> Outcome:
    """The answer on stdout; which release gave it, and how fast, on stderr. `whom`: its track, release or replica."""
    import httpx

    if whom:
        return _ask_one(
            context,
            service,
            env,
            {"prompt": prompt, "max_tokens": max_tokens, "temperature": temperature, "seed": seed, **whom},
        )

    url = gateway_address(context)
    certificate = own_certificate(context, url)
    chosen = {"temperature": temperature, "seed": seed}
    body = {
        "model": service,
        "prompt": prompt,
        "max_tokens": max_tokens,
        **{k: v for k, v in chosen.items() if v is not None},
    }
    started = time.monotonic()
    try:
        response = httpx.post(
            f"{url}/v1/completions",
            json=body,
            headers={**({"x-airboss-env": env} if env else {}), **credential()},
            verify=pinned_context(certificate, shown_certificate(context)) if certificate is not None else True,
            trust_env=False,
            timeout=context.options.timeout_s or TIMEOUT_S,
        )
    except httpx.TimeoutException as error:
        raise TimedOut(
            f"{service} did not answer within {context.options.timeout_s or TIMEOUT_S:g} s",
            hint="`airboss status` shows how it does",
        ) from error
    except httpx.HTTPError as error:
        raise Unreachable(
            f"the gateway at {url} does not answer: {error or type(error).__name__}",
            hint="`airboss status`; `airboss up -d` starts what is missing",
        ) from error
    took_ms = (time.monotonic() - started) * 1000
    facts = {name: response.headers.get(f"x-airboss-{name}") for name in ("release", "track", "revision")}
    if response.status_code != 200:
        raise _refused(response.status_code, response.content, service)
    answer: dict[str, Any] = response.json()
    text = "".join(choice.get("text", "") for choice in answer.get("choices", []))
    request_id = response.headers.get("x-request-id")
    item = {
        "service": service,
        "text": text,
        "request_id": request_id,
        **facts,
        "latency_ms": round(took_ms, 1),
        "usage": answer.get("usage"),
    }
    note = f"{facts['release']} ({facts['track']}) in {took_ms:.0f} ms, request {request_id}"
    return Outcome(
        "Answer", [item], blocks=(Text(text),), names=(request_id or "",), notes=(note,), ref=f"service/{service}"
    )


def _ask_one(context: Context, service: str, env: str | None, asked: dict[str, Any]) -> Outcome:
    """What the engine was answered by the one that is meant."""
    if env is None:
        found = sorted({row["env"] for row in context.get("/v1/fleet") if row["service"] == service and row["tracks"]})
        if len(found) != 1:
            raise UsageError(
                f"{service} serves in {', '.join(found) or 'no environment'}", hint="add --env ENV", code="env"
            )
        (env,) = found
    timeout_s = context.options.timeout_s or TIMEOUT_S
    body = {k: v for k, v in asked.items() if v is not None}
    item = context.client.ask({"service": service, "env": env, "timeout_s": timeout_s, **body}, timeout_s)
    whose = f"{item['release']} ({item['track']})" if item["track"] else item["release"]
    note = (
        f"{whose} in {item['latency_ms']:.0f} ms, replica {item['replica']}, past the gateway: it counts for no judge"
    )
    return Outcome(
        "Answer",
        [item],
        blocks=(Text(item["text"]),),
        names=(item["replica"],),
        notes=(note,),
        ref=f"service/{service}",
    )


def _refused(status: int, body: bytes, service: str) -> AirbossError:
    try:
        said = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = body.decode("utf-8", errors="replace")[:200]
    text = f"{service} answered {status}: {said}"
    if status in (502, 503, 504):
        return Unreachable(text, hint="`airboss service list` shows what serves; try again")
    if status == 401:
        return OperationFailed(text, hint="set AIRBOSS_API_KEY; `airboss gateway key add` makes a key")
    return OperationFailed(text, hint="`airboss service list` shows services and environments")
