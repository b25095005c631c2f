"""A verb as the shell line that does the same. Pure."""

from __future__ import annotations

import shlex

from console.tui.acts import VerbCall, ref_of
from console.tui.scene import Item
from engine.api.schemas import AlertView, EventView, FleetRow, ReplicaView, SloView
from engine.verbs import Confirm

_WORDS = {
    "rollout.promote": "rollout promote {id}",
    "rollout.promote_full": "rollout promote {id} --full",
    "rollout.weight": "rollout weight {id} {weight}",
    "alert.silence": "alert silence {id}",
    "service.restart": "service restart {id} {replica} --env {env}",
    "service.scale": "service scale {id} --env {env} --replicas {replicas}",
    "service.scale_down": "service scale {id} --env {env} --replicas {replicas} --down",
    "hold": "rollout hold {id} --env {env} --until {until_s}",
    "unhold": "rollout unhold {id} --env {env}",
    "config.apply": "config apply",
    "glass.ack": "break-glass ack {id}",
    "note": "note {ref} {text}",
    "freeze.start": "freeze start",
    "freeze.end": "freeze end",
    "engine.down": "down",
    "engine.drain": "down --all",
}


def script_line(call: VerbCall, reason: str = "") -> str:
    """The shell line that does the same, off a terminal."""
    name = call.ref.partition("/")[2] or call.ref
    if call.verb == "rollback":
        words = f"rollback {shlex.quote(call.service)} --env {shlex.quote(str(call.args.get('env', call.env)))}"
        if call.args.get("to"):
            words += f" --to {shlex.quote(str(call.args['to']))}"
    elif call.verb == "deploy":
        release = shlex.quote(str(call.args.get("release", "")))
        words = f"deploy {shlex.quote(call.service)} {release} --env {shlex.quote(call.env)}"
    else:
        known = _WORDS.get(call.verb, f"{call.verb.replace('.', ' ')} {{id}}")
        quoted = {k: shlex.quote(str(v)) for k, v in call.args.items()}
        words = known.format_map(
            {
                "id": shlex.quote(name),
                "ref": shlex.quote(call.ref),
                "weight": "W",
                "text": "TEXT",
                "until_s": "30m",
                "replica": "REPLICA",
                "env": shlex.quote(call.env),
                **quoted,
            }
        )
    if call.rung is not Confirm.NONE:
        words += " --yes"
    if call.rung >= Confirm.NAME:
        words += f" --confirm-name {shlex.quote(call.name)}"
    if call.break_glass:
        words += " --break-glass"
    if reason or call.asks_reason:
        words += f" --reason {shlex.quote(reason or 'WHY')}"
    return f"airboss {words}"


def show_line(item: Item) -> str:
    """The shell line that shows an object."""
    if isinstance(item, AlertView):
        return "airboss alert list --all"
    if isinstance(item, EventView):
        return f"airboss audit list --ref {shlex.quote(item.ref.replace(':', '/', 1))}"
    if isinstance(item, SloView):
        return "airboss slo list"
    if isinstance(item, ReplicaView) and item.kind == "model":
        return f"airboss service logs {shlex.quote(item.service)} {shlex.quote(item.spawn_id)} --env {shlex.quote(item.env)}"
    kind, _, name = ref_of(item).partition("/")
    if kind not in ("service", "rollout", "run", "release"):
        return "airboss status"
    env = f" --env {shlex.quote(item.env)}" if isinstance(item, FleetRow) else ""
    return f"airboss {kind} show {shlex.quote(name)}{env}"


def emergency_line(service: str, env: str) -> str:
    """What rolls back when no engine answers."""
    words = f"airboss rollback {shlex.quote(service)}"
    return f"{words} --env {shlex.quote(env)} --emergency" if env else f"{words} --emergency"
