"""`airboss demo`: the whole loop on real text. Exit 0 only if every act did what it should."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console.client import EngineClient
from console.demo.acts import ACTS, Play, Script
from console.demo.stage import Demo, Moment, nothing_special
from console.demo.workspace import ENV, RPS, SERVICE, config_text, prepare
from engine.api.schemas import LineageNode, VerbRequest
from state.paths import Paths
from state.words import API_VERSION, AirbossError, OperationFailed, UsageError

DRAIN_S = 90.0
"""Streams may finish before a model server ends."""


@dataclass(frozen=True, slots=True)
class DemoWish:
    """What was asked for on the command line."""

    directory: Path
    text: Path | None = None
    fault: bool = True
    cut_evidence: bool = False
    keep: bool = False
    first_steps: int = 300
    second_steps: int = 700
    params: tuple[tuple[str, object], ...] = ()
    rps: float = RPS
    moment: Moment = nothing_special
    servers: Path | None = None


def _tables(servers: Path | None) -> str:
    """The tables of the user's file. Raises UsageError when it cannot be read; what they say is checked with the rest."""
    try:
        return servers.read_text(encoding="utf-8") if servers is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--with {servers} cannot be read: {error}", hint="make it a UTF-8 text file") from error


def play_demo(wish: DemoWish) -> dict[str, Any]:
    """Play the four acts in a fresh workspace and return the document. It has `ok`; the workspace is left as it ended.

    Raises AirbossError when the workspace or the engine cannot be had at all.
    """
    from console.commands.starting import start_engine

    if wish.text is not None and not wish.text.exists():
        raise UsageError(f"--text {wish.text}: there is no such file or folder", code="no_text")
    text = wish.text.resolve() if wish.text else None
    began, began_at = time.monotonic(), time.time()
    config = config_text(
        text=text, cut_evidence=wish.cut_evidence, params=dict(wish.params), rps=wish.rps, servers=_tables(wish.servers)
    )
    paths, removed = prepare(wish.directory, config)
    if removed:
        sys.stderr.write(f"an earlier demo's state in {wish.directory} was removed\n")
    sys.stderr.write(f"workspace {paths.root}; the engine starts\n")
    start_engine(paths)
    script = Script(wish.first_steps, wish.second_steps, wish.fault, wish.cut_evidence)
    with EngineClient.for_workspace(paths.root) as client:
        demo = Demo(paths, client, began, wish.rps, wish.moment)
        play, acts = Play(script), list[dict[str, Any]]()
        try:
            for number, (name, act) in enumerate(ACTS[: 3 if wish.cut_evidence else 4], start=1):
                acts.append(_one(demo, play, number, name, act))
                if not acts[-1]["ok"]:
                    break
            document = _document(demo, wish, acts, _stop_load(demo), began, began_at)
            demo.act = "end"
            demo.say("all acts did what they should" if document["ok"] else "an act did not do what it should")
        finally:
            _stop_load(demo)
            if not wish.keep:
                demo.say("stopping everything")
                _drain(client, paths)
    return document


def _one(demo: Demo, play: Play, number: int, name: str, act: Any) -> dict[str, Any]:
    demo.act, began, at = f"act {number} {name}", time.monotonic(), time.time()
    facts: dict[str, Any] = {"act": number, "name": name, "ok": True, "started_at": at}
    try:
        facts.update(act(demo, play))
    except AirbossError as error:
        facts.update(ok=False, error=error.as_dict())
        demo.say(f"failed: {error.message}")
    facts["seconds"] = round(time.monotonic() - began, 2)
    return facts


def _stop_load(demo: Demo) -> str:
    try:
        demo.stop_load()
    except OperationFailed as error:
        return error.message
    return ""


def _document(
    demo: Demo, wish: DemoWish, acts: list[dict[str, Any]], trouble: str, began: float, began_at: float
) -> dict[str, Any]:
    requests = demo.requests.to_json()
    stable_failed = requests["by_track"].get("stable", {}).get("failed", 0) + requests["by_track"].get(
        "unknown", {}
    ).get("failed", 0)
    chain = demo.patiently(lambda: demo.client.get("/v1/audit/verify"))
    lineage = demo.patiently(lambda: demo.client.lineage(f"service:{SERVICE}@{ENV}"))
    alerts = demo.patiently(lambda: demo.client.alerts(all=True))
    ok = all(a["ok"] for a in acts) and len(acts) == (3 if wish.cut_evidence else 4)
    return {
        "apiVersion": API_VERSION,
        "kind": "Demo",
        "ok": ok and stable_failed == 0 and bool(chain["ok"]) and not trouble,
        "workspace": str(demo.paths.root),
        "started_at": began_at,
        "seconds": round(time.monotonic() - began, 2),
        "acts": acts,
        "requests": {**requests, "stable_failed": stable_failed, "trouble": trouble},
        "verdicts": [
            {"rollout": act["rollout"]["id"], "step": step["kind"], "weight": step["weight"], "verdict": step["verdict"],
             "reason": step["sentence"]}
            for act in acts if "rollout" in act for step in act["rollout"]["steps"] if step["verdict"]
        ],
        "alerts": [{"name": a.name, "severity": a.severity, "summary": a.summary, "state": a.state} for a in alerts],
        "lineage": _tree(lineage),
        "audit": chain,
    }  # fmt: skip


def _tree(node: LineageNode) -> dict[str, Any]:
    return {"ref": node.ref, "edge": node.edge, "label": node.label, "from": [_tree(child) for child in node.children]}


def _drain(client: EngineClient, paths: Paths) -> None:
    """Ask the engine to end everything, and wait until it has gone."""
    wish = VerbRequest(verb="engine.drain", ref="engine", yes=True, confirm_name="demo", reason="the demo is over")
    deadline = time.monotonic() + DRAIN_S
    try:
        client.verb(wish)
    except AirbossError as error:
        sys.stderr.write(f"the engine could not be asked to stop: {error.message}\n")
        return
    while paths.engine_info.exists():
        if time.monotonic() > deadline:
            sys.stderr.write(f"the engine is still stopping after {DRAIN_S:.0f} s\n")
            return
        time.sleep(0.1)


def write_result(paths: Paths, document: dict[str, Any]) -> Path:
    """Keep the document in the workspace, for who was not watching."""
    path = paths.state / "demo.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path
