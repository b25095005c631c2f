"""When a trigger fires. Pure: takes what it is, what is remembered of it and what there is now; returns what to do."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim

from state.pipeline_config import TriggerConfig

MISSED_MOST = 1000


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept of a trigger, written in one transaction with the run that it starts.

    `slot` is the last time of a cron that was dealt with (at first: when the trigger was first seen), `data` the digest of the data that
    was, `alert` the newest alert's number; `run` and `fired_at` the last run it started. `refused` says why it could not start one.
    """

    slot: float = 0.0
    data: str = ""
    alert: int = 0
    run: str = ""
    fired_at: float = 0.0
    paused_by: str = ""
    refused: str = ""
    proposed: str = ""
    """Why a run is proposed that waits for an approval; `approved_by` is who gave it."""
    approved_by: str = ""

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Memory:
        """What `to_json` wrote."""
        return cls(**body)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Seen:
    """The world now: unix time, the digest of settled data ("" when it changes or cannot be read), the newest firing alert of the name."""

    now: float
    data: str = ""
    alert: int = 0
    is_running: bool = False
    alert_says: str = ""
    """That alert's own words: the evidence."""


@dataclass(frozen=True, slots=True)
class Fire:
    """Start a run, because of `why`, and remember `memory`."""

    why: str
    memory: Memory


def first_sight(seen: Seen) -> Memory:
    """What a new trigger begins with: it fires for what changes from now on."""
    return Memory(slot=seen.now, data=seen.data, alert=seen.alert)


def decide(trigger: TriggerConfig, memory: Memory, seen: Seen) -> Fire | Memory | None:
    """Fire; or the memory that changed without a run; or None: nothing to do.

    What came while no engine ran, while the last run still went on, or within the cooldown, is one firing once that is over. What comes
    while the trigger is paused is passed over.
    """
    if trigger.data and not memory.data and seen.data:
        return replace(memory, data=seen.data)
    found = _cause(trigger, memory, seen)
    if memory.approved_by and not memory.paused_by:
        if seen.is_running:
            return None
        why = f"{memory.proposed}; approved by {memory.approved_by}"
        return Fire(why, replace(memory, proposed="", approved_by="", fired_at=seen.now, refused=""))
    if found is None:
        return None
    if memory.paused_by:
        return found.memory
    if seen.is_running or seen.now < memory.fired_at + trigger.cooldown:
        return None
    if trigger.approval:
        return replace(found.memory, proposed=found.why, refused="")
    return Fire(found.why, replace(found.memory, fired_at=seen.now, refused=""))


def _cause(trigger: TriggerConfig, memory: Memory, seen: Seen) -> Fire | None:
    if trigger.cron is not None:
        slot = last_slot(trigger, seen.now)
        if slot is None or slot <= memory.slot:
            return None
        missed = missed_slots(trigger, memory.slot, slot)
        more = f"{MISSED_MOST} or more" if missed >= MISSED_MOST else str(missed)
        also = f", and {more} earlier that passed without a run" if missed else ""
        return Fire(f"cron {trigger.cron}: due {_shown(trigger, slot)}{also}", replace(memory, slot=slot))
    if trigger.data:
        if not seen.data or seen.data == memory.data:
            return None
        said = f"{', '.join(trigger.data)} changed: sha256 {memory.data[:12]} → {seen.data[:12]}"
        return Fire(said, replace(memory, data=seen.data))
    if seen.alert <= memory.alert:
        return None
    said = f": {seen.alert_says}" if seen.alert_says else ""
    return Fire(f"alert {trigger.alert} fires (alert/{seen.alert}){said}", replace(memory, alert=seen.alert))


def last_slot(trigger: TriggerConfig, now: float) -> float | None:
    """The newest time of the cron that is not after `now`; None for none in the last fifty years."""
    # The reversed walk begins before the minute it is given: a minute on, this one counts.
    found = next(CronSim(str(trigger.cron), _at(trigger, now + 60.0), reverse=True), None)
    while found is not None and found.timestamp() > now:
        found = next(CronSim(str(trigger.cron), found, reverse=True), None)
    return found.timestamp() if found is not None else None


def next_slot(trigger: TriggerConfig, now: float) -> float | None:
    """The first time of the cron after `now`."""
    found = next(CronSim(str(trigger.cron), _at(trigger, now)), None)
    return found.timestamp() if found is not None else None


def missed_slots(trigger: TriggerConfig, after: float, slot: float) -> int:
    """How many times of the cron lie between `after` and `slot`, at most MISSED_MOST."""
    times = itertools.takewhile(lambda at: at.timestamp() < slot, CronSim(str(trigger.cron), _at(trigger, after)))
    return sum(1 for _ in itertools.islice(times, MISSED_MOST))


def _at(trigger: TriggerConfig, when: float) -> datetime:
    return datetime.fromtimestamp(when, ZoneInfo(trigger.timezone))


def _shown(trigger: TriggerConfig, when: float) -> str:
    return _at(trigger, when).strftime("%Y-%m-%d %H:%M %Z")
