"""Hooks and their deliveries, as the console shows them. No address's path or query: they are secrets."""

from __future__ import annotations

from pathlib import Path

from sqlmodel import Session, col, func, select

from engine.api.people_schemas import DeliveryView, HookView
from engine.observe.sending import shown_address
from engine.people.hooks.outbox import DONE, DROPPED, FAILED, PENDING
from state.config import Config
from state.hook_config import Hook
from state.models import HookDelivery


def hook_views(session: Session, config: Config) -> tuple[HookView, ...]:
    """Every hook of airboss.toml."""
    return tuple(_hook_view(session, name, hook) for name, hook in config.hook.items())


def _hook_view(session: Session, name: str, hook: Hook) -> HookView:
    rows = select(HookDelivery).where(HookDelivery.hook == name)
    first = session.exec(rows.where(HookDelivery.state == PENDING).order_by(col(HookDelivery.id)).limit(1)).first()
    told = session.exec(
        select(func.max(HookDelivery.done_at)).where(HookDelivery.hook == name, HookDelivery.state == DONE)
    ).one()
    return HookView(
        name=name, leads_to=_leads_to(hook), signed=hook.secret is not None, events=hook.events,
        environments=hook.environments, waiting=_count(session, name, (PENDING,)),
        failed=_count(session, name, (FAILED, DROPPED)), told_at=told, error=first.error if first else "",
    )  # fmt: skip


def _leads_to(hook: Hook) -> str:
    if hook.url is None:
        return f"command {Path(hook.command[0]).name}"
    return hook.url if hook.url.startswith(("env:", "file:")) else shown_address(hook.url)


def _count(session: Session, name: str, states: tuple[str, ...]) -> int:
    found = session.exec(
        select(func.count(col(HookDelivery.id))).where(HookDelivery.hook == name, col(HookDelivery.state).in_(states))
    )
    return int(found.one())


def delivery_views(session: Session, hook: str = "", limit: int = 100) -> tuple[DeliveryView, ...]:
    """Deliveries, newest first; of one hook when it is named."""
    query = select(HookDelivery)
    if hook:
        query = query.where(HookDelivery.hook == hook)
    rows = session.exec(query.order_by(col(HookDelivery.id).desc()).limit(limit))
    return tuple(
        DeliveryView(id=r.id or 0, hook=r.hook, delivery_id=r.delivery_id, event=r.event, ref=r.ref, state=r.state,
                     attempts=r.attempts, next_at=r.next_at if r.state == PENDING else None, error=r.error,
                     created_at=r.created_at, done_at=r.done_at)
        for r in rows
    )  # fmt: skip
