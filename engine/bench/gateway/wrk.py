"""wrk as the load generator of the throughput rows, where it is installed: it costs a twentieth of what a proxy costs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

from engine.bench.gateway.field import Field
from engine.bench.gateway.load import Order
from state.words import OperationFailed

_SCRIPT = """
wrk.method = "POST"
wrk.body = {body}
{headers}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{{"answered": %d, "failed": %d, "us": %d}}\\n',
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout, summary.duration))
end
"""


def is_here() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def rate(field: Field, order: Order) -> float:
    """Answers a second of a closed load. Raises OperationFailed when any request failed."""
    if not is_here():
        found = field.load(order)
        return _checked(order, found, float(found["rate"]))
    script = field.root / "wrk.lua"
    headers = {"Content-Type": "application/json", **order.headers}
    lines = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    script.write_text(_SCRIPT.format(body=json.dumps(order.body().decode()), headers=lines), encoding="utf-8")
    words = ["wrk", "-t1", f"-c{order.connections}", f"-d{max(1, round(order.seconds))}s", "-s", str(script)]
    ran = subprocess.run(
        [*words, f"http://127.0.0.1:{order.port}{order.path}"], capture_output=True, text=True, check=False,
        timeout=order.seconds + 60, preexec_fn=lambda: os.sched_setaffinity(0, {field.other_core}),
    )  # fmt: skip
    try:
        found = json.loads(ran.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise OperationFailed(f"wrk failed: {(ran.stderr or ran.stdout).strip()[-300:]}") from error
    return _checked(order, found, found["answered"] / found["us"] * 1e6)


def _checked(order: Order, found: dict[str, Any], per_second: float) -> float:
    if found["failed"]:
        raise OperationFailed(f"{found['failed']} of {found['answered']} requests to port {order.port} failed: {found}")
    return per_second
