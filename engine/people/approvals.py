"""Approvals: of one plan, at one gate, by people who did not begin it. Functions of a session; the caller commits.

A rollout has a gate before its first step, and one at every `approval` step. What is said at a gate is bound to the hash
of the plan as it then stood: a plan that changes has not been approved.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from sqlmodel import Session, col, select

from engine.access import Actor
from state import audit
from state.digests import canonical_json
from state.models import Approval, Release, Rollout
from state.people_config import PeopleConfig
from state.words import Conflict, Denied, RolloutState

START = -1
"""The gate before the first step."""
APPROVE, REJECT, BREAK_GLASS = "approve", "reject", "break_glass"
EXPIRES_AFTER_S = 24 * 3600.0
"""How long a plan waits for its approval when its policy does not say."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Where a rollout waits for people: the gate, what it takes, and what was said there of the plan as it stands."""

    index: int
    needed: int
    plan: str
    said: tuple[Approval, ...]

    @property
    def approvals(self) -> int:
        """How many different people said yes; a broken glass stands for all."""
        if any(one.decision == BREAK_GLASS for one in self.said):
            return self.needed
        return len({one.by for one in self.said if one.decision == APPROVE})

    @property
    def rejections(self) -> int:
        """How many said no."""
        return sum(one.decision == REJECT for one in self.said)


def plan_hash(session: Session, row: Rollout) -> str:
    """sha256 of all that is approved: what goes where, from and to which bytes, by which steps and judge."""
    release = session.get(Release, row.to_release)
    plan = {
        "service": row.service, "env": row.env, "target": row.target, "strategy": row.strategy,
        "from": row.from_release, "to": row.to_release, "digest": release.digest if release else "",
        "policy": row.policy,
    }  # fmt: skip
    return hashlib.sha256(canonical_json(plan).encode("utf-8")).hexdigest()


def gate(session: Session, row: Rollout) -> Gate:
    """The gate that the rollout stands at, or the one before its first step once it has left that behind."""
    steps, plan = row.policy["steps"], plan_hash(session, row)
    at_step = row.state not in (RolloutState.PLANNED, RolloutState.AWAITING_APPROVAL)
    step = steps[row.step] if at_step and row.step < len(steps) else None
    is_gate = step is not None and step["kind"] == "approval"
    index = row.step if is_gate else START
    needed = int(step["value"]) if step is not None and is_gate else int(row.policy["approvals"])
    query = select(Approval).where(Approval.rollout_id == row.id, Approval.gate == index, Approval.plan_hash == plan)
    return Gate(index, needed, plan, tuple(session.exec(query.order_by(col(Approval.id)))))


def counted(session: Session, row: Rollout) -> tuple[int, int]:
    """Approvals and rejections as the machine reads them: those before the first step are behind an approval step."""
    here = gate(session, row)
    behind = 0 if here.index == START else int(row.policy["approvals"])
    return behind + here.approvals, here.rejections


def demand_second_person(row: Rollout, actor: Actor, people: PeopleConfig, *, protected: bool, verb: str) -> None:
    """Raise Denied when who began the rollout also decides on it, in a protected environment (I11).

    Who began it is the person behind the account: the owner of a timer's or a CI's account.
    """
    author = people.person_behind(row.created_by.removeprefix("user:"))
    if not protected or people.person_behind(actor.user) != author:
        return
    began = f"{author} began {row.id}"
    if row.created_by != f"user:{author}":
        began = f"{row.id} was begun by {row.created_by.removeprefix('user:')}, whose owner is {author}"
    raise Denied(
        f"{began}, and {actor.user} cannot {verb.removeprefix('rollout.').replace('_', ' ')} it too",
        hint="ask another approver; `airboss access list` says who they are",
        code="own_rollout",
    )


def say(session: Session, row: Rollout, who: str, decision: str, reason: str) -> Gate:
    """Record a person's yes or no to the plan as it stands, in the audit log too; returns the gate as it is then.

    Raises Conflict when the same person said the same of the same plan before.
    """
    here = gate(session, row)
    if any(one.by == who and one.decision == decision for one in here.said):
        raise Conflict(
            f"{who.removeprefix('user:')} has said {decision.replace('_', ' ')} to this plan of {row.id} already",
            code="said_already",
        )
    session.add(Approval(rollout_id=row.id, by=who, at=time.time(), decision=decision, reason=reason,
                         plan_hash=here.plan, gate=here.index))  # fmt: skip
    session.flush()
    audit.append(session, actor=who, action=f"rollout.{decision}", ref=f"rollout:{row.id}", reason=reason,
                 detail={"plan": here.plan, "gate": here.index})  # fmt: skip
    return gate(session, row)


def voided(session: Session, row: Rollout) -> tuple[Approval, ...]:
    """What was said of plans that this rollout no longer has."""
    query = select(Approval).where(Approval.rollout_id == row.id, Approval.plan_hash != plan_hash(session, row))
    return tuple(session.exec(query.order_by(col(Approval.id))))
