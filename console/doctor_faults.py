"""The five faults that serving models meets most, looked for on evidence: memory, slowness, refusals, differing answers, starts.

Each is a function of what was read (doctor_facts). Nothing is changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from console.commands.format import milliseconds
from console.doctor_facts import Facts, gather

if TYPE_CHECKING:
    from console.commands.context import Context

BUSY_LOAD = 1.5
"""Runnable threads a core, above which the processor itself is the queue."""
_MEMORY = re.compile(
    r"out_of_memory|OutOfMemory|out of memory|MemoryError|allocate memory|the model does not fit|DoesNotFit|oom.?kill",
    re.I,
)
_OVERLOAD = frozenset(
    {
        "max_inflight",
        "no_healthy_replica",
        "shed_interactive",
        "shed_batch",
        "shed_background",
        "queue_full",
        "user_limit",
    }
)
"""Reasons of a refusal, the gateway's and a replica's, that mean too many at once and not a wrong request."""
Level = Literal["ok", "warn", "fail"]
Finding = tuple[str, Level, str, str]
"""Name, level, what was found, what to do."""


def look(context: Context) -> Iterator[Finding]:
    """Read, and say of each fault whether it is there; nothing where nothing serves or has served."""
    facts = gather(context)
    if facts.replicas or facts.logs or facts.serving:
        yield from findings(facts)


def findings(facts: Facts) -> Iterator[Finding]:
    """One line for each of the five faults, whether it is there or not."""
    for name, looks in (
        ("memory", memory), ("speed", speed), ("refusals", refusals), ("answers", answers), ("starts", starts)
    ):  # fmt: skip
        found = looks(facts)
        yield (name, *found) if found else (name, "ok", _NOTHING[name], "")


_NOTHING = {
    "memory": "no replica ran out of it",
    "speed": "every service is within its latency objective, or has no traffic",
    "refusals": "no request was turned away for want of room",
    "answers": "replicas of a release answer alike",
    "starts": "every replica that is wanted has come up",
}


def memory(facts: Facts) -> tuple[Level, str, str] | None:
    """Out of memory: in a replica's words, or by the kernel's count beside a replica that was killed."""
    for log in facts.logs:
        lines = [line for line in str(log.get("text", "")).splitlines() if _MEMORY.search(line)]
        if lines:
            return (
                "fail",
                f"{log['id']} of {log['release_id']} ran out of memory: {_said(lines[-1])}",
                "less at once: max_batch, max_context or kv_cache_mib lower in [service.X.serving] (`airboss help serving`); "
                "fewer bytes a weight: dtype bfloat16 or quantize int8; keep prefix_cache on; or a device with more memory",
            )
    killed = [log["id"] for log in facts.logs if "killed" in str(log.get("end_cause") or "")]
    if facts.oom_kills and killed:
        return (
            "fail",
            f"the kernel has ended {facts.oom_kills} process(es) here for memory, and {', '.join(killed)} died without a word",
            "raise the container's memory limit, or serve less in it: max_batch, kv_cache_mib, dtype bfloat16, fewer replicas",
        )
    return None


def speed(facts: Facts) -> tuple[Level, str, str] | None:
    """Slow: p95 over the objective, and what in the replicas says why."""
    limits = {(s["service"], s["env"]): s["latency_p95_ms"] for s in facts.slos}
    slow = [
        row for row in facts.fleet
        if row.get("p95_ms") and (limit := limits.get((row["service"], row["env"]))) and row["p95_ms"] > limit
    ]  # fmt: skip
    if not slow:
        return None
    row = max(slow, key=lambda one: one["p95_ms"])
    limit = limits[(row["service"], row["env"])]
    mine = [r for r in facts.replicas if (r.service, r.env) == (row["service"], row["env"])]
    waiting = sum(r.metrics.get("vllm:num_requests_waiting", 0.0) for r in mine)
    full = max((r.metrics.get("vllm:kv_cache_usage_perc", 0.0) for r in mine), default=0.0)
    preempted = sum(r.metrics.get("vllm:num_preemptions_total", 0.0) for r in mine)
    causes = []
    if waiting >= 1:
        causes.append(
            (
                f"{waiting:.0f} requests wait in its replicas",
                "more replicas, or a larger max_batch: `airboss service capacity`",
            )
        )
    if full > 0.9 or preempted:
        causes.append(
            (
                f"its KV cache is {full * 100:.0f} % full, {preempted:.0f} requests were put back",
                "a larger kv_cache_mib",
            )
        )
    if facts.load > BUSY_LOAD * facts.cores:
        causes.append(
            (
                f"load {facts.load:.1f} on {facts.cores} cores: the processor is the queue",
                "fewer model_threads or fewer neighbours",
            )
        )
    if not causes:
        causes.append(
            (
                "nothing waits: each request by itself is slow",
                "int8 or bfloat16, fewer max_tokens, or a faster backend: vLLM, TensorRT-LLM (`airboss help backends`)",
            )
        )
    return (
        "fail",
        f"{row['service']} in {row['env']}: p95 {milliseconds(row['p95_ms'])}, its objective is {milliseconds(limit)}; "
        + "; ".join(what for what, _ in causes),
        "; ".join(todo for _, todo in causes),
    )


def refusals(facts: Facts) -> tuple[Level, str, str] | None:
    """Requests at the same time fail: refused by the gateway or by a replica because too many were there."""
    found: dict[str, float] = {
        f"gateway {reason}": n for reason, n in facts.rejected.items() if n and reason in _OVERLOAD
    }
    for one in facts.replicas:
        for name, n in one.metrics.items():
            base, _, reason = name.partition("/")
            if base == "vllm:admission_rejections_total" and n and reason in _OVERLOAD:
                found[f"{one.release_id} {reason}"] = found.get(f"{one.release_id} {reason}", 0.0) + n
    if not found:
        return None
    told = ", ".join(f"{name} {n:.0f}" for name, n in sorted(found.items(), key=lambda kv: -kv[1]))
    return (
        "warn",
        f"requests turned away since the processes started: {told}",
        "more replicas ([service.X] replicas, or autoscale: `airboss help autoscaling`); a longer max_queue; "
        "callers that heed Retry-After; limits of a caller: `airboss help access`",
    )


def answers(facts: Facts) -> tuple[Level, str, str] | None:
    """One question without chance in it, asked twice of each replica of a release: the answers must be the same."""
    said: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for one in facts.replicas:
        for text in one.answers:
            said.setdefault((one.service, one.env, one.release_id), {}).setdefault(text, []).append(one.spawn_id)
    for (service, env, release), by_text in said.items():
        if len(by_text) > 1:
            groups = " against ".join(", ".join(dict.fromkeys(ids)) for ids in by_text.values())
            return (
                "fail",
                f"{release} as {service} in {env} answers one question at temperature 0 in {len(by_text)} ways: {groups}",
                f"`airboss release verify {release}` compares its files with the record (tokenizer and weights too); restart the odd one: "
                f"`airboss service restart {service} REPLICA`; int8 and other dtypes round differently: one dtype for all",
            )
    mixed = {
        (row["service"], row["env"]): [t["release_id"] for t in row.get("tracks", ()) if t.get("weight")]
        for row in facts.fleet
    }
    for (service, env), releases in mixed.items():
        if len(set(releases)) > 1:
            return (
                "warn",
                f"{service} in {env} is answered by {' and '.join(dict.fromkeys(releases))}: answers differ by release",
                "a rollout is under way: `airboss rollout list --active`; X-Airboss-Release in an answer says which one gave it; with "
                "temperature 0, or a seed, one release answers alike",
            )
    return None


def starts(facts: Facts) -> tuple[Level, str, str] | None:
    """A replica, or a container, that does not come up: it dies again and again, or nobody can place it."""
    loop = next((a for a in facts.alerts if "CrashLoop" in a.get("name", "")), None)
    dying = next(
        (r for r in facts.serving if r["kind"] == "model" and (r["restarts"] or 0) > 0 and r["state"] != "ready"), None
    )
    stuck = next(
        (
            r
            for r in facts.rollouts
            if r.get("pause_reason") == "capacity" or (r["state"] == "preparing" and r.get("why"))
        ),
        None,
    )
    if loop is None and dying is None and not (stuck and stuck.get("pause_reason") == "capacity"):
        return None
    last = next((log for log in facts.logs if log.get("end_cause")), None)
    words = _said(_last_line(str(last["text"]))) if last else ""
    what = (
        str(loop["summary"]) if loop
        else f"{dying['spawn_id']} of {dying['release_id']} was started again {dying['restarts']} times: {dying['detail']}" if dying
        else f"{stuck['id']} is paused for capacity: {stuck.get('message', '')}" if stuck else ""
    )  # fmt: skip
    driver = "" if facts.has_gpu_driver else "; this host has no NVIDIA driver (`nvidia-smi`): a GPU build needs one"
    return (
        "fail",
        what + (f"; its last words: {words}" if words else "") + driver,
        "`airboss service logs SERVICE` has the whole story of each start; `airboss release verify RELEASE` checks its files; in a cluster: "
        "image and pull secret, resources.limits (nvidia.com/gpu, memory), `airboss rollout why ro-N`",
    )


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _said(line: str) -> str:
    """The message of a log line, which may be JSON, made short."""
    try:
        body = json.loads(line)
        line = str(body.get("message") or body.get("error") or line) if isinstance(body, dict) else line
    except ValueError:
        pass
    return line.strip()[-240:]
