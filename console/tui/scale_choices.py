"""The scale and traffic menu of an object: each line with its call, or why not. Pure."""

from __future__ import annotations

from dataclasses import replace

from console.tui.acts import MenuChoice, Refused, VerbCall, on_rollout, rollout_of
from console.tui.scene import Item
from engine.api.schemas import FleetRow, ReplicaView, RolloutView, Snapshot

MOST = 6
"""Replicas that the menu names; the others have their row in the view of what serves (7)."""
_KEYS = "123456"
HOLD_S = 1800.0


def scale_choices(item: Item, snapshot: Snapshot) -> tuple[MenuChoice, ...] | Refused:
    """Weight, hold and release, and a line for each replica of the object's service that may be restarted."""
    if not isinstance(item, FleetRow | RolloutView | ReplicaView) or not item.service:
        return Refused("no service is meant")
    service, env = item.service, item.env
    row = next((r for r in snapshot.fleet if (r.service, r.env) == (service, env)), None)
    protected = row.protected if row is not None else True
    rollout = rollout_of(row or item, snapshot)
    choices = [MenuChoice("w", "set the canary's weight…", _weight(rollout), asks="weight")]
    here = {"env": env}
    if not isinstance(item, ReplicaView) or item.kind == "model":
        choices += _number(row, VerbCall("service.scale", f"service/{service}", service, env, protected, here))
    held = bool(row is not None and row.held_by)
    choices.append(
        MenuChoice("u", "let automatic movement go on", VerbCall("unhold", f"service/{service}", service, env, protected, here))
        if held
        else MenuChoice(
            "h", "hold: stop all automatic movement for half an hour",
            VerbCall("hold", f"service/{service}", service, env, protected, {**here, "until_s": HOLD_S}),
        )
    )  # fmt: skip
    replicas = [r for r in snapshot.serving if r.kind == "model" and (r.service, r.env) == (service, env)]
    if isinstance(item, ReplicaView) and item.kind == "model":
        replicas = [item]
    for key, one in zip(_KEYS, replicas[:MOST], strict=False):
        call = VerbCall(
            "service.restart", f"service/{service}", service, env, protected, {**here, "replica": one.spawn_id}
        )
        choices.append(MenuChoice(key, f"restart {one.spawn_id} ({one.release_id}, {one.state})", call))
    return tuple(choices)


def _number(row: FleetRow | None, call: VerbCall) -> list[MenuChoice]:
    """How many replicas: a number, and the way back to what the file says."""
    if row is None or not row.tracks:
        return [MenuChoice("n", "how many replicas…", Refused("nothing is served here"))]
    there = max(track.replicas for track in row.tracks if track.weight > 0 or track.track == "stable")
    lines = [
        MenuChoice(
            "n", f"how many replicas… (now {there})", call, asks="replicas", asks_for="replicas, 1 to 64", most=64,
            fewer=(there, "service.scale_down"),
        )
    ]  # fmt: skip
    if row.scaled:
        # Which way that goes the engine knows; the verb that may take away asks for the name.
        back = replace(call, verb="service.scale_down", args={**call.args, "replicas": "auto"})
        lines.append(MenuChoice("a", f"take back: {row.scaled}", back))
    return lines


def _weight(rollout: RolloutView | None) -> VerbCall | Refused:
    if rollout is None:
        return Refused("no rollout is under way: all traffic is stable's")
    reason = rollout.refusals.get("rollout.weight")
    return Refused(reason) if reason else on_rollout("rollout.weight", rollout)


def advice(service: str, env: str) -> str:
    """Where the number of replicas comes from, and what says how many there should be."""
    return (
        f"Without a hand, [service.{service}] replicas or its autoscale table says how many. "
        f"`airboss service capacity {service} --env {env}` says what the load needs; "
        f"`airboss service scale {service} --env {env} --replicas N --for 2h` ends by itself."
    )
