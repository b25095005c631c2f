"""A service, a lineage tree, and the one screen of health, for people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from console import metrics_check
from console.commands import health_tables
from console.commands.format import NONE, ago, milliseconds, number, words
from console.output import Block, Facts, Outcome, Table, Text

Item = Mapping[str, Any]


def service(rows: Sequence[Item], replicas: Sequence[Item]) -> Outcome:
    """A service: its row in each environment, its tracks, its processes."""
    blocks = list(health_tables.fleet(rows).blocks)
    tracks = [
        (
            r["env"],
            t["track"],
            t["release_id"],
            f"{t['weight']} %",
            f"{number(t.get('measured_pct'))} %",
            f"{t['ready']}/{t['replicas']}",
            number(t["requests"]),
            number(t["errors"]),
            milliseconds(t.get("p95_ms")),
        )
        for r in rows
        for t in r.get("tracks") or ()
    ]
    blocks.append(
        Table(
            ("ENV", "TRACK", "RELEASE", "WEIGHT", "MEASURED", "READY", "REQUESTS", "ERRORS", "P95"),
            tracks,
            frozenset({3, 4, 5, 6, 7, 8}),
            empty="no tracks",
        )
    )
    blocks += health_tables.serving(replicas).blocks
    items = [{**r, "replicas": [p for p in replicas if p.get("env") == r["env"]]} for r in rows]
    return Outcome("Service", items, blocks=blocks, names=[f"service/{r['service']}@{r['env']}" for r in rows])


def lineage(node: Item) -> Outcome:
    """A tree of records, each with how it hangs on the one above."""
    lines: list[str] = []

    def walk(at: Item, lead: str, is_last: bool, depth: int) -> None:
        branch = "" if depth == 0 else ("`- " if is_last else "|- ")
        edge = f"{at['edge']}: " if at.get("edge") else ""
        label = f"  {at['label']}" if at.get("label") and at["label"] != at["ref"] else ""
        lines.append(f"{lead}{branch}{edge}{at['ref']}{label}")
        children = at.get("children") or ()
        for i, child in enumerate(children):
            walk(child, lead + ("" if depth == 0 else "   " if is_last else "|  "), i == len(children) - 1, depth + 1)

    walk(node, "", True, 0)
    return Outcome("Lineage", [node], blocks=(Text("\n".join(lines)),), names=_refs(node))


def _refs(node: Item) -> list[str]:
    found = [str(node["ref"])]
    for child in node.get("children") or ():
        found += _refs(child)
    return list(dict.fromkeys(found))


def _what_serves(item: Item) -> list[tuple[str, str]]:
    workers = f"{number(item.get('gateway_ready'))} of {number(item.get('gateway_workers'))} workers ready"
    replicas = f"{number(item.get('replicas_ready'))} of {number(item.get('replicas'))} ready"
    return [("gateway", f"{item.get('gateway') or NONE}, {workers}"), ("replicas", replicas)]


def _what_is_alive(item: Item) -> list[tuple[str, str]]:
    """Without an engine nobody knows what should be; the locks say what is."""
    return [
        ("gateway", f"{number(item.get('gateway_ready'))} workers alive"),
        ("replicas", f"{number(item.get('replicas_ready'))} alive"),
    ]


def status(item: Item, fleet: Sequence[Item], alerts: Sequence[Item]) -> Outcome:
    """One screen of health."""
    now = time.time()
    adapters = item.get("adapters") or {}
    is_up = item.get("state") not in ("down", None)
    facts = [
        (
            "workspace",
            f"{item.get('name') or NONE}  {item.get('workspace') or NONE}"
            + ("  (demo)" if item.get("is_demo") else ""),
        ),
        (
            "engine",
            f"{words(item.get('state'))}, pid {item['pid']}, version {item['version']}, up {ago(item['started_at'], now)}"
            if is_up
            else "down",
        ),
        *(_what_serves(item) if is_up else _what_is_alive(item)),
    ]
    if adapters:
        facts.append(("adapters", ", ".join(f"{k} {v}" for k, v in sorted(adapters.items()))))
    facts += [
        (f"{gone['name']} down", f"for {ago(gone['since'], now)}: {gone['error']}; goes on: {gone['goes_on']}")
        for gone in item.get("down") or ()
    ]
    facts += metrics_check.facts(item.get("profiles") or ())
    if item.get("store_trouble"):
        facts.append(("store", f"NOTHING CAN BE WRITTEN: {item['store_trouble']}"))
    whole = {True: "whole", False: "BROKEN", None: "not verified"}[item.get("audit_ok")]
    if item.get("audit_ok") and item.get("audit_unchecked"):
        whole += f" so far, {number(item['audit_unchecked'])} still to be followed"
    facts.append(
        ("audit", f"{number(item.get('audit_rows'))} rows, head {(item.get('audit_head') or NONE)[:12]}, {whole}")
    )
    backup = f"{ago(item['backup_at'], now)} ago" if item.get("backup_at") else "none yet"
    facts.append(("backup", backup + (f"; {item['backup_trouble']}" if item.get("backup_trouble") else "")))
    last = item.get("drill")
    facts.append(("drill", f"{last['name']} {ago(last['at'], now)} ago: {last['outcome']}" if last else "none yet"))
    facts += [
        (f"{d['what']} drift", f"{'BEYOND ITS LIMIT  ' if d['beyond'] else ''}{d['service']}@{d['env']}: {d['says']}")
        for d in item.get("drift") or ()
    ]
    facts += [
        ("cost", f"{'OVER BUDGET  ' if c['over'] else ''}{c['service']}@{c['env']}: {c['says']}")
        for c in item.get("cost") or ()
    ]
    if item.get("no_one_is_paged"):
        facts.append(("paging", "NO ONE IS PAGED: [alerts] in airboss.toml names neither webhook nor command"))
    if item.get("demo"):
        facts.append(
            ("demo", ", ".join(f"{k} {number(v)}" for k, v in item["demo"].items() if not str(k).endswith("_at")))
        )
    blocks: list[Block] = [Facts(facts), *health_tables.fleet(fleet).blocks]
    if alerts:
        blocks += health_tables.alerts(alerts).blocks
    return Outcome(
        "Status",
        [{**item, "fleet": list(fleet), "alerts": list(alerts)}],
        blocks=blocks,
        names=(f"engine/{words(item.get('state'))}",),
    )
