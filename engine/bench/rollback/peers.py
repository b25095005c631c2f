"""The same switch by others' means: nginx, reloaded with another configuration; HAProxy, told on its runtime socket.

Both have toys behind them, half and half, and take the bad one out of service.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from engine.bench.gateway.peers import nginx_command, nginx_config, start_nginx
from engine.bench.programs import Programs, free_port
from engine.bench.rollback.deck import BAD, GOOD
from state.words import OperationFailed

NGINX, HAPROXY = "nginx, reloaded", "HAProxy, told"
_NGINX = """
  upstream models {{ {servers} keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://models; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
"""
_HAPROXY = """
global
  nbthread 2
  maxconn 8192
  stats socket {socket} level admin
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
  server good 127.0.0.1:{good} weight 50
  server bad 127.0.0.1:{bad} weight 50
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy before both toys. `half` splits traffic between them, `switch` takes it off the bad one."""

    name: str
    port: int
    half: Callable[[], None]
    switch: Callable[[], None]


def toys(programs: Programs) -> dict[str, int]:
    """A toy for each release; their ports."""
    ports = {}
    for name in (GOOD, BAD):
        ports[name] = free_port()
        words = [sys.executable, "-P", "-m", "engine.bench.rollback.toy", str(ports[name]), name]
        programs.start(f"toy-{name}", words, port=ports[name])
    return ports


def nginx(programs: Programs, toys: dict[str, int]) -> Proxy | None:
    """nginx with two workers, as many as ours; None where it is not installed."""
    if not shutil.which("nginx"):
        return None
    port = free_port()

    def http(*names: str) -> str:
        servers = " ".join(f"server 127.0.0.1:{toys[name]};" for name in names)
        return _NGINX.format(servers=servers, port=port)

    def reload(*names: str) -> None:
        nginx_config(programs, "peer", http(*names), workers=2)
        ran = subprocess.run([*nginx_command(programs, "peer"), "-s", "reload"], capture_output=True, check=False)
        if ran.returncode:
            raise OperationFailed(f"nginx did not reload: {ran.stderr.decode(errors='replace').strip()[-300:]}")

    start_nginx(programs, "peer", http(GOOD, BAD), port, workers=2)
    return Proxy(NGINX, port, lambda: reload(GOOD, BAD), lambda: reload(GOOD))


def haproxy(programs: Programs, toys: dict[str, int]) -> Proxy | None:
    """HAProxy with two threads; None where it is not installed."""
    binary = shutil.which("haproxy")
    if not binary:
        return None
    port, path = free_port(), programs.root / "haproxy.sock"
    config = programs.root / "haproxy.cfg"
    config.write_text(_HAPROXY.format(socket=path, port=port, good=toys[GOOD], bad=toys[BAD]), encoding="utf-8")
    programs.start("haproxy", [binary, "-db", "-q", "-f", str(config)], port=port)

    def tell(weight: int) -> None:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(path))
            admin.sendall(f"set server models/{BAD} weight {weight}\n".encode())
            if said := admin.recv(4096).strip():
                raise OperationFailed(f"HAProxy would not: {said.decode(errors='replace')}")

    return Proxy(HAPROXY, port, lambda: tell(50), lambda: tell(0))
