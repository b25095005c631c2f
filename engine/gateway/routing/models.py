"""Which service answers a request, and which one does when that cannot. Pure: the world is passed in as states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapters.ports import Route
from adapters.routing import Choose, ModelRule, Tier


@dataclass(frozen=True, slots=True)
class ServiceState:
    """How a service is, on this worker. `trouble` is "" while it can answer: else why another one should."""

    trouble: str
    fill_pct: float


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks for, as far as rules look at it. `max_tokens` is 0 when it does not say."""

    prompt_chars: int
    max_tokens: int
    headers: Mapping[str, str]
    request_class: str


Find = Callable[[str], Route | None]
StateOf = Callable[[Route], ServiceState]


def choose_service(route: Route, ask: Ask, find: Find, state_of: StateOf) -> Route:
    """The service that should answer: the first rule that fits, else the first tier, by the policy, that has room.

    With every tier busy it is the first one that can answer at all; with none of those it is `route` itself, whose
    fallback then has its say. A rule or tier whose service is not in this environment is passed over.
    """
    choose = route.routing.choose if route.routing is not None else Choose()
    for rule in choose.rules:
        if rule_fits(rule, ask) and (found := find(rule.to)) is not None:
            return found
    able = []
    for tier in in_order(choose):
        if (found := find(tier.service)) is None or (state := state_of(found)).trouble:
            continue
        if state.fill_pct < tier.busy_at:
            return found
        able.append(found)
    return able[0] if able else route


def in_order(choose: Choose) -> list[Tier]:
    """The tiers as the policy prefers them; equals stay as they were written."""
    if choose.policy == "quality_first":
        return sorted(choose.tiers, key=lambda tier: (-tier.quality, tier.cost))
    if choose.policy == "cost_first":
        return sorted(choose.tiers, key=lambda tier: (tier.cost, -tier.quality))
    return []


def fallback_for(route: Route, find: Find, state_of: StateOf) -> Route | None:
    """The first fallback that can answer; None when there is none."""
    for service in route.routing.choose.fallback if route.routing is not None else ():
        found = find(service)
        if found is not None and not state_of(found).trouble:
            return found
    return None


def rule_fits(rule: ModelRule, ask: Ask) -> bool:
    """Whether every condition of the rule holds."""
    if rule.prompt_chars is not None and ask.prompt_chars < rule.prompt_chars:
        return False
    if rule.max_tokens is not None and ask.max_tokens < rule.max_tokens:
        return False
    if rule.request_class and ask.request_class != rule.request_class:
        return False
    if not rule.header:
        return True
    value = ask.headers.get(rule.header)
    return value is not None and (rule.equals is None or value == rule.equals)


def ask_of(body: Mapping[str, Any], headers: Mapping[str, str], request_class: str) -> Ask:
    """What a completion's JSON body asks for."""
    prompt = body.get("prompt", "")
    chars = len(prompt) if isinstance(prompt, str) else _chars(prompt)
    return Ask(chars + _chars(body.get("messages")), tokens_wanted(body), headers, request_class)


def tokens_wanted(body: Mapping[str, Any]) -> int:
    """The most tokens a body asks for, 0 when it does not say."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def with_changes(body: dict[str, Any], model: str, cap_max_tokens: int) -> dict[str, Any]:
    """The body as another service is asked, or with a shorter answer. "" and 0 change nothing."""
    changed = dict(body)
    if model and "model" in body:
        changed["model"] = model
    if cap_max_tokens:
        name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        changed[name] = min(tokens_wanted(body) or cap_max_tokens, cap_max_tokens)
    return changed


def _chars(value: object) -> int:
    """Characters of text in a list of texts, of messages, or of a message's parts."""
    if not isinstance(value, list):
        return 0
    total = 0
    for item in value:
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            content = item.get("content", item.get("text", ""))
            total += len(content) if isinstance(content, str) else _chars(content)
    return total
