"""What else one could put in front of a model server, each with one process on one core, as its manual would have it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.bench.gateway.field import Field
from engine.bench.gateway.upstream import BODY
from engine.bench.programs import Programs, free_port
from engine.bench.progress import say
from state.words import AirbossError

LITELLM_START_S = 150.0
LITELLM_PLACES = ("~/.cache/airboss/litellm/bin/python",)
KEY = "sk-bench"

_NGINX = """
{user}worker_processes {workers};
pid {root}/nginx-{name}.pid;
error_log {root}/nginx-{name}.error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {root}/nginx-{name}-body;
  proxy_temp_path {root}/nginx-{name}-proxy;
  fastcgi_temp_path {root}/nginx-{name}-fastcgi;
  uwsgi_temp_path {root}/nginx-{name}-uwsgi;
  scgi_temp_path {root}/nginx-{name}-scgi;
  {http}
}}
"""
_NGINX_PROXY = """
  upstream models {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://models; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
"""
_NGINX_UPSTREAM = """
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ default_type application/json; return 200 '{body}'; }} }}
"""
_HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  option http-no-delay
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend public
  bind 127.0.0.1:{port}
  default_backend models
backend models
  server one 127.0.0.1:{upstream}
"""
_LITELLM = """
model_list:
  - model_name: chat
    litellm_params:
      model: openai/chat
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: none
general_settings:
  master_key: {key}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy under measurement; without a port it is absent, and `absent` says what to do about it."""

    name: str
    port: int = 0
    absent: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_chat: bool = False


def plain_upstream(field: Field) -> int:
    """The fastest upstream at hand: nginx answering by itself where it is installed, else the bench's own."""
    if not shutil.which("nginx"):
        return field.upstream_port
    port = free_port()
    start_nginx(field, "upstream", _NGINX_UPSTREAM.format(port=port, body=BODY.decode()), port, {field.other_core})
    return port


def bare_aiohttp(field: Field, upstream: int) -> Peer:
    """The aiohttp proxy that anybody would write first."""
    port = free_port()
    words = [sys.executable, "-P", "-m", "engine.bench.gateway.bare_proxy", str(port), str(upstream)]
    field.start("bare-aiohttp", words, cores={field.proxy_core}, port=port)
    return Peer("bare aiohttp", port)


def nginx(field: Field, upstream: int) -> Peer:
    """nginx with keep-alive upstream and no buffering."""
    if not shutil.which("nginx"):
        return Peer("nginx", absent="not installed: apt-get install nginx")
    port = free_port()
    start_nginx(field, "proxy", _NGINX_PROXY.format(port=port, upstream=upstream), port, {field.proxy_core})
    return Peer("nginx", port)


def haproxy(field: Field, upstream: int) -> Peer:
    """HAProxy with one thread and connection reuse."""
    binary = shutil.which("haproxy")
    if not binary:
        return Peer("HAProxy", absent="not installed: apt-get install haproxy")
    port = free_port()
    config = field.root / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, upstream=upstream), encoding="utf-8")
    field.start("haproxy", [binary, "-db", "-q", "-f", str(config)], cores={field.proxy_core}, port=port)
    return Peer("HAProxy", port)


def litellm(field: Field, upstream: int, python: str | None) -> Peer:
    """The LiteLLM proxy from an environment of its own, whose `python` is given or stands in a known place."""
    places = [python] if python else list(LITELLM_PLACES)
    program = next((p for place in places if (p := Path(place).expanduser().with_name("litellm")).exists()), None)
    if program is None:
        how = "python3 -m venv ~/.cache/airboss/litellm && ~/.cache/airboss/litellm/bin/pip install 'litellm[proxy]'"
        return Peer("LiteLLM", absent=f"no {' or '.join(map(str, places))} with litellm beside it: {how}")
    port = free_port()
    config = field.root / "litellm.yaml"
    config.write_text(_LITELLM.format(upstream=upstream, key=KEY), encoding="utf-8")
    say("starting LiteLLM's proxy, which takes its time")
    words = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")} | {"LITELLM_LOG": "ERROR"}
    try:
        field.start("litellm", [*words, "--telemetry", "False"], cores={field.proxy_core}, port=port,
                    wait_s=LITELLM_START_S, env=env)  # fmt: skip
    except AirbossError as error:
        return Peer("LiteLLM", absent=error.message)
    return Peer("LiteLLM", port, headers={"Authorization": f"Bearer {KEY}"}, is_chat=True)


def start_nginx(
    programs: Programs, name: str, http: str, port: int, cores: Collection[int] = (), workers: int = 1
) -> None:
    """An nginx of its own, with `http` in its configuration."""
    nginx_config(programs, name, http, workers)
    programs.start(f"nginx-{name}", [*nginx_command(programs, name), "-g", "daemon off;"], cores=cores, port=port)


def nginx_config(programs: Programs, name: str, http: str, workers: int = 1) -> None:
    """Write the configuration that the nginx `name` starts with, or reloads."""
    user = "user root;\n" if os.getuid() == 0 else ""  # its own user could not write into our directory
    text = _NGINX.format(user=user, root=programs.root, name=name, http=http, workers=workers)
    _config_of(programs, name).write_text(text, encoding="utf-8")


def nginx_command(programs: Programs, name: str) -> list[str]:
    """nginx, told which one it is."""
    return ["nginx", "-p", str(programs.root), "-c", str(_config_of(programs, name))]


def _config_of(programs: Programs, name: str) -> Path:
    return programs.root / f"nginx-{name}.conf"
