"""Lists: each view's rows, for people (columns) and programs (items as the engine gave them)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from console.commands.format import NONE, ago, clock, number, short
from console.output import Outcome, Table
from state.labels import model_label

Item = Mapping[str, Any]
Row = tuple[str, ...]


def listing(
    kind: str,
    items: Sequence[Item],
    header: Row,
    row: Callable[[Item], Row],
    name: Callable[[Item], str],
    *,
    filter: str = "",
    right: Sequence[int] = (),
    empty: str = "none",
) -> Outcome:
    """The outcome of a list: one row an item, only those whose row has `filter`."""
    pairs = [(item, row(item)) for item in items]
    if filter:
        wanted = filter.casefold()
        pairs = [(item, cells) for item, cells in pairs if wanted in " ".join((name(item), *cells)).casefold()]
    table = Table(header, [cells for _, cells in pairs], frozenset(right), empty=empty)
    return Outcome(kind, [item for item, _ in pairs], blocks=(table,), names=[name(item) for item, _ in pairs])


def _step(item: Item) -> str:
    steps = item.get("steps") or ()
    return f"{item.get('step', 0) + 1}/{len(steps)}" if steps else NONE


def rollouts(items: Sequence[Item], filter: str = "") -> Outcome:
    """Rollouts, newest first."""
    now = time.time()
    return listing(
        "Rollout",
        items,
        ("ROLLOUT", "SERVICE", "ENV", "FROM", "TO", "STATE", "STEP", "WEIGHT", "VERDICT", "BY", "AGE"),
        lambda i: (
            i["id"],
            i["service"],
            i["env"],
            i.get("from_release") or NONE,
            i["to_release"],
            rollout_state(i),
            _step(i),
            f"{i['weight']} %" if i.get("weight") is not None else NONE,
            (i.get("verdict") or {}).get("kind", NONE),
            i.get("created_by", NONE),
            ago(i.get("created_at"), now),
        ),
        lambda i: f"rollout/{i['id']}",
        filter=filter,
        right=(7, 10),
        empty="no rollouts",
    )


def rollout_state(item: Item) -> str:
    """The state's word, with the reason of a pause."""
    return (
        f"{item['state']}({item['pause_reason']})"
        if item.get("pause_reason") and item["state"] == "paused"
        else item["state"]
    )


def runs(items: Sequence[Item], filter: str = "") -> Outcome:
    """Pipeline runs, newest first."""
    now = time.time()
    return listing(
        "Run",
        items,
        ("RUN", "PIPELINE", "STATE", "STAGES", "RELEASE", "BY", "TOOK", "AGE"),
        lambda i: (
            i["id"],
            i["pipeline"],
            i["state"],
            _stages(i),
            i.get("release_id") or NONE,
            i.get("created_by", NONE),
            ago(i["created_at"], i.get("finished_at") or now),
            ago(i["created_at"], now),
        ),
        lambda i: f"run/{i['id']}",
        filter=filter,
        right=(6, 7),
        empty="no runs",
    )


def _stages(item: Item) -> str:
    stages = item.get("stages") or ()
    if not stages:
        return NONE
    done = sum(s["state"] in ("succeeded", "cached") for s in stages)
    current = next((s["name"] for s in stages if s["state"] not in ("succeeded", "cached", "pending", "skipped")), "")
    return f"{done}/{len(stages)} {current}".strip()


def releases(items: Sequence[Item], filter: str = "") -> Outcome:
    """Releases, newest first."""
    now = time.time()
    return listing(
        "Release",
        items,
        ("RELEASE", "SERVICE", "LIFECYCLE", "MODEL", "DIGEST", "LIVE IN", "RUN", "AGE"),
        lambda i: (
            i["id"],
            i["service"],
            i["lifecycle"],
            model_label(i["model_name"], i["model_version"]),
            short(i.get("digest")),
            " ".join(i.get("live_in") or ()) or NONE,
            i.get("run_id") or NONE,
            ago(i.get("created_at"), now),
        ),
        lambda i: f"release/{i['id']}",
        filter=filter,
        right=(7,),
        empty="no releases",
    )


def audit(items: Sequence[Item], filter: str = "") -> Outcome:
    """Audit rows."""
    return listing(
        "AuditRow",
        items,
        ("ID", "AT", "ACTOR", "ACTION", "REF", "REASON", "DETAIL"),
        lambda i: (
            str(i["id"]),
            clock(i["at"]),
            i["actor"],
            i["action"],
            i["ref"],
            i.get("reason") or NONE,
            _detail(i),
        ),
        lambda i: f"audit/{i['id']}",
        filter=filter,
        right=(0,),
        empty="no rows",
    )


def _detail(item: Item) -> str:
    return (
        " ".join(f"{k}={number(v)}" for k, v in (item.get("detail") or {}).items() if not isinstance(v, dict | list))
        or NONE
    )


def pipelines(items: Sequence[Item], filter: str = "") -> Outcome:
    """Pipelines of the workspace."""
    return listing(
        "Pipeline",
        items,
        ("PIPELINE", "KIND", "STAGES"),
        lambda i: (
            i["name"],
            i.get("kind", NONE),
            i.get("trouble") or " > ".join(stage_name(s) for s in i.get("stages") or ()) or NONE,
        ),
        lambda i: f"pipeline/{i['name']}",
        filter=filter,
        empty="no pipelines",
    )


def triggers(items: Sequence[Item], filter: str = "") -> Outcome:
    """What starts pipelines by itself."""
    now = time.time()
    return listing(
        "Trigger",
        items,
        ("TRIGGER", "WHEN", "STATE", "NEXT", "LAST RUN", "AGE"),
        lambda i: (
            i["name"],
            i["when"],
            f"paused by {i['paused_by']}"
            if i["paused_by"]
            else i["trouble"] or (f"proposes: {i['proposed']}" if i.get("proposed") else i["state"]),
            clock(i["next_at"]) if i["next_at"] else NONE,
            i["last_run"] or NONE,
            ago(i["last_at"], now) if i["last_at"] else NONE,
        ),
        lambda i: f"trigger/{i['name']}",
        filter=filter,
        right=(5,),
        empty="no triggers: [pipeline.NAME.trigger.NAME] in airboss.toml makes one",
    )


def stage_name(stage: Any) -> str:
    """A stage's name, whether it came as a name or as an object."""
    return str(stage.get("name", NONE)) if isinstance(stage, Mapping) else str(stage)
