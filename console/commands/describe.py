"""One object, whole, for people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from console.commands import people_tables, tables
from console.commands.format import NONE, ago, clock, milliseconds, number, percent, span
from console.output import Block, Facts, Outcome, Table

Item = Mapping[str, Any]


def rollout(item: Item) -> Outcome:
    """A rollout: where it stands, both arms, what the judge says, what happened."""
    now = time.time()
    verdict = item.get("verdict")
    facts = [
        ("rollout", f"{item['id']}, revision {item.get('revision', NONE)}, {item.get('strategy', NONE)}"),
        ("service", f"{item['service']} in {item['env']}" + (" (protected)" if item.get("protected") else "")),
        ("release", f"{item.get('from_release') or NONE} -> {item['to_release']}"),
        ("state", f"{tables.rollout_state(item)} for {ago(item.get('state_since'), now)}"),
        ("weight", f"{number(item.get('weight'))} % set, {number(item.get('measured_pct'))} % measured"),
    ]
    if item.get("why"):
        facts.append(("waits for", item["why"]))
    if item.get("message"):
        facts.append(("says", item["message"]))
    if verdict:
        facts.append(("verdict", f"{verdict['kind']}: {verdict['sentence']}"))
        if verdict.get("needs_requests") or verdict.get("needs_s"):
            facts.append(
                ("needs", f"about {number(verdict.get('needs_requests'))} requests, {span(verdict.get('needs_s'))}")
            )
    facts += people_tables.gate_facts(item)
    facts.append(
        (
            "begun",
            f"{clock(item.get('created_at'))} by {item.get('created_by', NONE)}"
            + (f": {item['reason']}" if item.get("reason") else ""),
        )
    )
    if item.get("finished_at"):
        facts.append(("ended", clock(item["finished_at"])))
    if item.get("warm_until"):
        facts.append(("kept warm", f"until {clock(item['warm_until'])}: a rollback is a weight change"))
    if item.get("preview"):
        by = str(item["preview"])
        facts.append(("preview", f"send the header `{by}`" if ": " in by else f"ask the {by}"))
    blocks: list[Block] = [Facts(facts), _steps(item)]
    arms = [(name, item[name]) for name in ("stable", "canary") if item.get(name)]
    if arms:
        blocks.append(
            Table(
                ("ARM", "RELEASE", "REQUESTS", "ERRORS", "SLOW", "P95"),
                [
                    (
                        name,
                        a["release_id"],
                        number(a["requests"]),
                        number(a["errors"]),
                        number(a["slow"]),
                        milliseconds(a.get("p95_ms")),
                    )
                    for name, a in arms
                ],
                frozenset({2, 3, 4, 5}),
            )
        )
    if verdict and verdict.get("checks"):
        blocks.append(_checks(verdict["checks"]))
    blocks += people_tables.said_block(item)
    if item.get("events"):
        blocks.append(_events(item["events"]))
    return Outcome("Rollout", [item], blocks=blocks, names=(f"rollout/{item['id']}",), ref=f"rollout/{item['id']}")


def _steps(item: Item) -> Table:
    return Table(
        ("STEP", "KIND", "WHAT", "STATE", "ELAPSED", "VERDICT"),
        [
            (
                str(s["idx"] + 1),
                s["kind"],
                s.get("says") or f"{s['weight']} %",
                s["state"],
                span(s.get("elapsed_s")),
                (s.get("verdict") or {}).get("kind", NONE),
            )
            for s in item.get("steps") or ()
        ],
        frozenset({0, 4}),
        empty="no steps",
    )


def _checks(checks: Sequence[Item]) -> Table:
    return Table(
        ("METRIC", "SAYS", "BY", "STABLE", "CANARY", "LIMIT"),
        [
            (
                c["metric"],
                c["kind"],
                c.get("route") or NONE,
                percent(c.get("stable_rate")),
                percent(c.get("canary_rate")),
                percent(c.get("limit")),
            )
            for c in checks
        ],
        frozenset({3, 4, 5}),
    )


def _events(events: Sequence[Item]) -> Table:
    return Table(
        ("AT", "ACTOR", "ACTION", "REASON"),
        [(clock(e["at"]), e["actor"], e["action"], e.get("reason") or NONE) for e in events],
    )


def run(item: Item) -> Outcome:
    """A run: its stages, metrics and gates."""
    now = time.time()
    facts = [
        ("run", f"{item['id']} of {item['pipeline']}"),
        ("state", item["state"]),
        ("release", item.get("release_id") or NONE),
        ("begun", f"{clock(item['created_at'])} by {item.get('created_by', NONE)}"),
        ("took", ago(item["created_at"], item.get("finished_at") or now)),
    ]
    if item.get("params"):
        facts.append(("set", " ".join(f"{k}={number(v)}" for k, v in item["params"].items())))
    if item.get("error"):
        facts.append(("error", item["error"]))
    stages = item.get("stages") or ()
    rows = [
        (
            s["name"],
            s["state"],
            span((s.get("finished_at") or now) - s["started_at"]) if s.get("started_at") else NONE,
            _values(s.get("metrics") or s.get("progress")),
            s.get("error") or NONE,
        )
        for s in stages
    ]
    blocks: list[Block] = [Facts(facts), Table(("STAGE", "STATE", "TOOK", "MEASURED", "ERROR"), rows, frozenset({2}))]
    gates = [
        (
            s["name"],
            g["name"],
            f"{number(g['value'])} {g['op']} {number(g['limit'])}",
            "passed" if g["passed"] else "failed",
            "blocking" if g["blocking"] else "warning",
        )
        for s in stages
        for g in s.get("gates") or ()
    ]
    if gates:
        blocks.append(Table(("STAGE", "GATE", "CHECK", "SAYS", "KIND"), gates))
    return Outcome("Run", [item], blocks=blocks, names=(f"run/{item['id']}",), ref=f"run/{item['id']}")


def _values(values: Mapping[str, Any] | None) -> str:
    return " ".join(f"{k}={number(v)}" for k, v in (values or {}).items() if not isinstance(v, dict | list)) or NONE
