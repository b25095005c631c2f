"""Lineage of what is live: what serves because of a record ("recall"), and what served at a moment. Standard library only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from state.lineage import Node, Rows, canonical, moment
from state.words import UsageError

_CHUNK: Final = 400
_WENT_BACK: Final = ("rolled_back", "cancelled", "superseded")


def live_from(rows: Rows, ref: str) -> Node:
    """What gives answers to users now because of `ref`, each with the way from it to `ref`; no children when nothing does.

    Walked from the few releases that are live, back to `ref`: however much was ever made of it, that costs the same.
    Raises UsageError when nothing has that name.
    """
    root = canonical(rows, ref)
    live: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for track in rows("SELECT * FROM track WHERE weight > 0 ORDER BY service, env, track"):
        live[f"release:{track['release_id']}"].append(track)
    above = _ways(rows, list(live), root)
    children = []
    for release, tracks in live.items():
        if (way := _way(above, release, root)) is not None:
            children += [
                Node(
                    f"service:{t['service']}@{t['env']}", "service", f"{t['service']} in {t['env']}",
                    f"{t['track']} {t['weight']} % by {t['release_id']}", way,
                )
                for t in tracks
            ]  # fmt: skip
    return Node(root, root.partition(":")[0], "is live in" if children else "is live nowhere", "", tuple(children))


def _ways(rows: Rows, releases: Sequence[str], root: str) -> dict[str, list[tuple[str, str]]]:
    """Record → (record it was made from, how), of all that the releases were made from."""
    made_from: dict[str, list[tuple[str, str]]] = defaultdict(list)
    seen, level = set(releases), list(releases)
    while level:
        found: list[Mapping[str, Any]] = []
        for first in range(0, len(level), _CHUNK):
            some = level[first : first + _CHUNK]
            marks = ", ".join("?" * len(some))
            found += rows(f"SELECT src, dst, kind FROM lineage_edge WHERE src IN ({marks}) ORDER BY src, dst", *some)
        level = []
        for edge in found:
            made_from[edge["src"]].append((edge["dst"], edge["kind"]))
            if edge["dst"] not in seen and edge["dst"] != root and edge["kind"] != "follows":
                seen.add(edge["dst"])
                level.append(edge["dst"])
    return made_from


def _way(made_from: Mapping[str, Sequence[tuple[str, str]]], release: str, root: str) -> tuple[Node, ...] | None:
    """The shortest way from a live release to the root, as a chain of nodes; None when there is none.

    A release that merely came after another (`follows`) is not made of it.
    """
    if release == root:
        return ()
    before: dict[str, tuple[str, str]] = {}
    level = [release]
    while level and root not in before:
        following = []
        for here in level:
            for there, how in made_from.get(here, ()):
                if how != "follows" and there not in before and there != release:
                    before[there] = (here, how)
                    following.append(there)
        level = following
    if root not in before:
        return None
    chain: tuple[Node, ...] = ()
    at = root
    while at != release:
        here, how = before[at]
        chain = (Node(at, at.partition(":")[0], at.partition(":")[2], how, chain),)
        at = here
    return (Node(release, "release", release.partition(":")[2], "", chain),)


def live_at(rows: Rows, ref: str, at: float) -> Node:
    """Which releases of a service had traffic at `at` (Unix seconds), by the rollouts' record; children are none where it had none.

    Between a step's start and the gateways' word that it holds lie seconds; a rollback counts from its end.
    Raises UsageError when `ref` is no service.
    """
    root = canonical(rows, ref)
    if not root.startswith("service:"):
        raise UsageError(
            f"{ref} is no service",
            hint="for example `airboss lineage service/chat --at 2026-11-21T18:00Z`",
            code="no_service",
        )
    service, _, env = root.removeprefix("service:").partition("@")
    found = rows("SELECT DISTINCT env FROM rollout WHERE service = ? ORDER BY env", service)
    children = [
        Node(f"release:{release}", "release", release, f"{weight} % in {one['env']} by {rollout}")
        for one in found
        if env in ("", one["env"])
        for release, weight, rollout in _shares(rows, service, one["env"], at)
    ]
    return Node(
        root,
        "service",
        f"{service} at {moment(at)}" + ("" if children else ": no release had traffic"),
        "",
        tuple(children),
    )


def _shares(rows: Rows, service: str, env: str, at: float) -> Iterator[tuple[str, int, str]]:
    """(release, percent, rollout that gave it) at a moment. Only the newest two rollouts can matter for one target."""
    stable: tuple[str, str] | None = None
    moving: tuple[str, int, str] | None = None
    for row in reversed(
        rows(
            "SELECT * FROM rollout WHERE service = ? AND env = ? AND created_at <= ? ORDER BY created_at DESC LIMIT 50",
            service, env, at,
        )
    ):  # fmt: skip
        is_over = row["finished_at"] is not None and row["finished_at"] <= at
        if stable is None and row["from_release"]:
            stable = (row["from_release"], "an earlier rollout")
        moving = None
        if is_over and row["state"] in _WENT_BACK:
            continue
        if is_over:
            stable = (row["to_release"], row["id"])
            continue
        steps = rows(
            "SELECT weight FROM rollout_step WHERE rollout_id = ? AND started_at IS NOT NULL AND started_at <= ?"
            " AND kind = 'weight' ORDER BY idx DESC LIMIT 1",
            row["id"], at,
        )  # fmt: skip
        moving = (row["to_release"], int(steps[0]["weight"]) if steps else 0, row["id"])
    weight = moving[1] if moving is not None else 0
    if moving is not None and weight:
        yield moving
    if stable is not None and weight < 100:
        yield stable[0], 100 - weight, stable[1]
