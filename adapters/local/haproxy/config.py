"""HAProxy's configuration for a routing table: values in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adapters.ports import Backend, Route
from state.words import Track

MAX_WEIGHT = 256
"""HAProxy's heaviest."""


@dataclass(frozen=True, slots=True)
class Server:
    """One replica as HAProxy knows it. `name` is TRACK:NUMBER:RELEASE, so that a line of its log says whose it is."""

    name: str
    address: str
    backend: Backend
    weight: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not depend on the table."""

    listen_fd: int
    admin_socket: str
    log_fd: int
    max_inflight: int
    retries: int
    drain_s: float


def backend_name(route: Route) -> str:
    """The backend of a route. Neither name holds a dot (`engine/gateway/table.py`), so it is unambiguous."""
    return f"{route.env}.{route.service}"


def servers(route: Route) -> list[Server]:
    """The route's replicas with the weights that give each track its share; a shadow gets nothing."""
    shares = {
        backend.track: backend.weight / len(backend.replicas)
        for backend in route.backends
        if backend.replicas and backend.track != Track.SHADOW
    }
    heaviest = max(shares.values(), default=0)
    found = []
    for backend in route.backends:
        share = shares.get(backend.track)
        if share is None:
            continue
        weight = max(1, round(share * MAX_WEIGHT / heaviest)) if share else 0
        for number, (_, address) in enumerate(backend.replicas):
            found.append(Server(f"{backend.track}:{number}:{backend.release_id}", address, backend, weight))
    return found


def shape(routes: Iterable[Route]) -> object:
    """Everything of the routes but weights: while this is the same, weights are set in the running HAProxy."""
    return [
        (backend_name(r), r.deadline_s, [(s.name, s.address, s.backend.release_id) for s in servers(r)]) for r in routes
    ]


def render(settings: Settings, default_env: str, routes: Sequence[Route]) -> str:
    """The whole file."""
    lines = _HEAD.format(s=settings).splitlines()
    services = {env: [r.service for r in routes if r.env == env] for env in {r.env for r in routes}}
    lines += ["frontend public", f"  bind fd@{settings.listen_fd}", *_FRONT.format(env=default_env).splitlines()]
    for env, names in sorted(services.items()):
        if len(names) == 1:  # the only service of an environment needs no naming
            only = f"http-request set-var(txn.service) str({names[0]}) if {{ var(txn.env) -m str {env} }}"
            lines.append(f"  {only} !{{ var(txn.service) -m found }}")
    for route in routes:
        where = f"{{ var(txn.env) -m str {route.env} }} {{ var(txn.service) -m str {route.service} }}"
        lines.append(f"  use_backend {backend_name(route)} if {where}")
    lines.append("  default_backend nowhere")
    for route in routes:
        lines += _backend(route)
    return "\n".join([*lines, *_NOWHERE.splitlines(), ""])


def _backend(route: Route) -> list[str]:
    lines = [f"backend {backend_name(route)}", f"  timeout server {int(route.deadline_s * 1000)}ms"]
    for server in servers(route):
        said = f"if {{ srv_name -m str {server.name} }}"
        lines.append(f"  http-response set-header X-Airboss-Release {server.backend.release_id} {said}")
        lines.append(f"  http-response set-header X-Airboss-Track {server.backend.track} {said}")
    lines += [f"  server {s.name} {_address(s.address)} weight {s.weight}" for s in servers(route)]
    return lines


def _address(address: str) -> str:
    if address.startswith("unix:"):
        return "unix@" + address.removeprefix("unix:")
    return address.removeprefix("http://").rstrip("/")


_HEAD = """\
global
  nbthread 1
  hard-stop-after {s.drain_s:.0f}s
  stats socket {s.admin_socket} mode 600 level admin
  log fd@{s.log_fd} format raw local0
defaults
  mode http
  log global
  option http-no-delay
  option redispatch 1
  option http-buffer-request
  retries {s.retries}
  retry-on conn-failure empty-response
  http-reuse safe
  balance roundrobin
  timeout connect 1s
  timeout client 75s
  timeout http-request 30s
  timeout queue 1s
  timeout server 60s
  option httpchk GET /ready
  http-check expect status 200
  default-server check inter 250ms fastinter 100ms fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down maxconn {s.max_inflight}
"""
_FRONT = """\
  unique-id-format %[uuid]
  unique-id-header X-Request-Id
  log-format "%ST %Ta %Tr %ts %b %s"
  http-request set-var(txn.env) str({env})
  http-request set-var(txn.env) req.hdr(x-airboss-env) if {{ req.hdr(x-airboss-env) -m found }}
  http-request set-log-level silent if {{ req.hdr(x-airboss-probe) -m str 1 }} {{ src 127.0.0.0/8 ::1 }}
  http-request del-header x-airboss- -m beg
  http-request set-header X-Forwarded-For %[src]
  acl names_both path -m reg ^/[^/]+/[^/]+/(v1/.*|generate)$
  acl names_none path -m beg /v1/
  http-request set-var(txn.env) path,field(2,/) if names_both !names_none
  http-request set-var(txn.service) path,field(3,/) if names_both !names_none
  http-request set-var(txn.service) req.body,json_query('$.model') if names_none or {{ path /generate }}
  http-request replace-path ^/[^/]+/[^/]+(/.*)$ \\1 if names_both !names_none
  http-request return status 200 content-type text/plain string ok if {{ path /healthz }}
  http-request return status 404 content-type text/plain string "this gateway serves /v1/ and /generate" if !{{ path -m beg /v1/ }} !{{ path /generate }}
  http-request return status 405 content-type text/plain string "this takes POST" if !METH_POST
  http-response set-header X-Request-Id %[unique-id]
"""
_NOWHERE = """\
backend nowhere
  http-request return status 404 content-type text/plain string "no such service here; the body's model names it"
"""
