"""The confirm ladder, as a hand climbs it: y, a name, a name and a reason. Never asks off a terminal."""

from __future__ import annotations

import sys
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.refs import name_of
from engine.verbs import VERBS, Confirm, Verb
from state.words import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from console.commands.context import Context
    from engine.api.schemas import VerbRequest


@dataclass(frozen=True, slots=True)
class Target:
    """What a verb is about to change: the name that confirms it, and whether its environment is protected."""

    name: str
    protected: bool


def confirmed(request: VerbRequest, context: Context, show_plan: Callable[[], int | None]) -> VerbRequest:
    """The request with what its rung of the ladder needs.

    `show_plan` is called before a question is asked; the revision it returns is the one that was shown, and the only
    one that the engine may then act on. Raises UsageError naming the flags when something is missing and nobody can be
    asked, or when a person says no.
    """
    verb = VERBS[request.verb]
    if _rung_needs_no_look(verb, request):
        return request
    target = _target(request, context)
    rung = verb.confirm_in(target.protected, request.break_glass)
    if rung >= Confirm.NAME and request.confirm_name and request.confirm_name != target.name:
        raise UsageError(
            f"--confirm-name {request.confirm_name} is not the name to confirm {request.verb} with",
            hint=f"it is {target.name}",
            code="confirm_name",
        )
    asks_reason = verb.asks_reason(target.protected, request.break_glass)
    missing = missing_flags(request, rung, target.name, asks_reason)
    if not missing:
        return request
    if not context.can_ask:
        raise UsageError(
            f"{request.verb} on {request.ref} must be confirmed", hint=f"add {' '.join(missing)}", code="confirm"
        )
    shown = show_plan()
    given: dict[str, Any] = {"yes": True}
    if request.expect_revision is None and shown is not None:
        given["expect_revision"] = shown
    if rung >= Confirm.NAME:
        given["confirm_name"] = _asked_name(request, target)
    elif not asked_yes(f"{verb.summary}: {request.ref}?"):
        raise _declined()
    if asks_reason and not request.reason.strip():
        given["reason"] = ask("reason: ")
        if not given["reason"]:
            raise _declined()
    return request.model_copy(update=given)


def missing_flags(request: VerbRequest, rung: Confirm, name: str, asks_reason: bool) -> list[str]:
    """The flags that would confirm the request off a terminal."""
    missing = []
    if rung >= Confirm.NAME and not request.confirm_name:
        missing.append(f"--confirm-name {name}")
    if rung >= Confirm.YES and not request.yes:
        missing.append("--yes")
    if asks_reason and not request.reason.strip():
        missing.append("--reason TEXT")
    return missing


def asked_yes(question: str) -> bool:
    """Ask; only `y` or `yes` is one."""
    return ask(f"{question} [y/N] ").casefold() in ("y", "yes")


def ask(prompt: str) -> str:
    """One line from the person. What was typed or pasted before the question was shown is dropped."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    try:
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    except termios.error:
        diagnostics.note("what was typed before the question could not be dropped")
    line = sys.stdin.readline()
    if not line:
        diagnostics.say("")
    return line.strip()


def _asked_name(request: VerbRequest, target: Target) -> str:
    if request.confirm_name:
        return request.confirm_name
    typed = ask(f"type {target.name} to {VERBS[request.verb].summary}: ")
    if typed != target.name:
        raise _declined()
    return typed


def _declined() -> UsageError:
    return UsageError("not confirmed; nothing was done", code="not_confirmed")


def _rung_needs_no_look(verb: Verb, request: VerbRequest) -> bool:
    """Whatever the environment, the request already says all. A rollback must not depend on another question."""
    strictest = max(verb.confirm, verb.relaxed)
    if request.break_glass or (verb.reasoned and not request.reason.strip()):
        return False
    return strictest is Confirm.NONE or (strictest is Confirm.YES and request.yes)


def _target(request: VerbRequest, context: Context) -> Target:
    kind, name = request.ref.partition("/")[0], name_of(request.ref)
    if max(VERBS[request.verb].confirm, VERBS[request.verb].relaxed) <= Confirm.YES and not request.break_glass:
        return Target(name, protected=True)
    if kind == "rollout":
        view = context.get(f"/v1/rollouts/{name}")
        return Target(view["service"], bool(view["protected"]))
    if kind == "alert":
        found = next((a for a in context.get("/v1/alerts", {"all": 1}) if str(a["id"]) == name), None)
        if found is None:
            raise UsageError(f"there is no alert {name}", hint="`airboss alert list` shows them", code="no_alert")
        return Target(found["service"] or found["name"], _is_protected(found["env"], context))
    if kind == "engine":
        status = context.get("/v1/status")
        return Target(status["name"], protected=True)
    env = str(request.args.get("env") or "")
    return Target(env if kind == "env" else name, _is_protected(env, context))


def _is_protected(env: str, context: Context) -> bool:
    """An environment that cannot be looked up is protected."""
    if not context.engine_url:
        known = context.config.environment.get(env)
        return known.protected if known else True
    rows = [row for row in context.get("/v1/fleet") if row["env"] == env]
    return all(row["protected"] for row in rows)
