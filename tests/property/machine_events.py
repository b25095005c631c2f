"""What may happen to a rollout: events as values, drawn by a seed; sequences of them played, and shrunk when one fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from invariants import broken
from machine_games import game_of
from machine_people import BEGINS, begin_what_waits, press
from machine_things import Crash, Game
from machine_world import OPEN, World

from engine.rollouts.verdict import Verdict
from engine.verbs import ROLLOUT_VERBS
from state.words import NoDataCause, VerdictKind

VERDICTS = (
    Verdict(VerdictKind.PASS, "clean"),
    Verdict(VerdictKind.FAIL, "bad", guard="errors"),
    OPEN,
    Verdict(VerdictKind.INCONCLUSIVE, "too long", expired=True),
    Verdict(VerdictKind.INCONCLUSIVE, "both bad", common_mode=True),
    Verdict(VerdictKind.NO_DATA, "nothing", cause=NoDataCause.UNREACHABLE),
)
VERBS = (*ROLLOUT_VERBS, *BEGINS)
FATES = ("ok", "lost", "half", "unheard")
HEALING_TICKS = 60
HOUR_S = 3600.0
USUAL = ("deploy", "deploy", "rollout.promote", "rollout.resume", "rollout.approve", "supersede", "rollback")
"""What people press in a life that is calm."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happens. Absolute, so that leaving out the ones before it keeps its meaning."""

    kind: str
    number: float = 0
    words: tuple[str, ...] = ()


_WEIGHTS = {
    "look": 40, "pass": 14, "verdict": 8, "verb": 12, "gateway lost": 1, "gateway back": 2, "worker restarts": 2,
    "worker is empty": 1, "foreign weights": 1, "republish": 3, "replica dies": 3, "crash loop": 1, "broken file": 1,
    "hold": 1, "unhold": 2, "freeze": 1, "thaw": 2, "clock step": 2, "suspended": 1, "reboot": 1, "long": 2,
    "no room": 1, "room": 2, "goes well": 3,
}  # fmt: skip


def draw(chance: random.Random, length: int) -> list[Event]:
    """`length` events, ticks and verdicts most often."""
    # Every other life is calm enough to come to its end by itself, mostly.
    is_calm = chance.random() < 0.5
    weights = {**_WEIGHTS, "look": 160, "pass": 80, "verdict": 30, "verb": 8, "goes well": 30} if is_calm else _WEIGHTS
    kinds = chance.choices(list(weights), list(weights.values()), k=length)
    verbs = USUAL if is_calm else VERBS
    return [Event("verb", words=("deploy",)), *(_one(chance, kind, verbs) for kind in kinds)]


def _one(chance: random.Random, kind: str, verbs: Sequence[str]) -> Event:
    if kind == "look":
        fates = tuple(chance.choices(FATES, (6, 1, 1, 1), k=4)) if chance.random() < 0.4 else ()
        between = chance.choice(verbs) if chance.random() < 0.04 else ""
        crash = chance.randint(1, 9) if chance.random() < 0.25 else 0
        return Event(kind, crash, (between, *fates))
    if kind == "verdict":
        return Event(kind, chance.choices(range(len(VERDICTS)), (14, 2, 2, 1, 1, 1))[0])
    if kind == "goes well":
        return Event(kind, chance.randint(1, 8))
    if kind == "verb":
        return Event(kind, words=(chance.choice(verbs),))
    if kind in ("replica dies", "crash loop", "broken file"):
        fresh = " baseline" if chance.random() < 0.1 else ""
        return Event(kind, words=(f"r{chance.randint(0, 3)}{fresh}",))
    if kind == "clock step":
        return Event(kind, chance.choice((-HOUR_S, HOUR_S)))
    if kind == "foreign weights":
        return Event(kind, chance.choice((0, 7, 100)))
    return Event(kind, chance.choice((0.5, 2.0, 5.0, 20.0)))


def happen(world: World, event: Event) -> None:
    """Let one event happen."""
    match event.kind:
        case "look":
            world.passes(0.5)
            _look(world, event)
        case "pass":
            world.passes(event.number)
        case "goes well":
            for _ in range(int(event.number)):
                world.passes(2.5)
                if world.verdict is OPEN:
                    world.new_evidence(VERDICTS[0])
                _look(world, Event("look"))
        case "long":
            world.passes(event.number * 20)
        case "suspended":
            world.true_s += (
                event.number
            )  # the monotonic clock stands while the host sleeps; what is elapsed is what ran
            world.step_clock(event.number)
        case "verdict":
            world.new_evidence(VERDICTS[int(event.number)])
        case "verb":
            press(world, event.words[0])
        case "gateway lost" | "gateway back":
            world.is_gateway_up = event.kind == "gateway back"
        case "worker restarts" | "worker is empty":
            world.workers[1] = dict(world.workers[0]) if event.kind == "worker restarts" else {}
        case "foreign weights":
            _foreign(world, int(event.number))
        case "republish":
            world.republish()
        case "no room" | "room":
            world.has_room = event.kind == "room"
        case "hold" | "unhold":
            world.held = event.kind == "hold"
        case "freeze" | "thaw":
            world.frozen = event.kind == "freeze"
        case "clock step":
            world.step_clock(event.number)
        case "reboot":
            world.reboot()
        case _:
            _replica(world, event)


def _look(world: World, event: Event) -> None:
    between, *fates = event.words or ("",)
    world.fates, world.crash_at = list(fates), int(event.number)
    try:
        world.tick((lambda: press(world, between)) if between else None)
        begin_what_waits(world)
    except Crash:
        world.republish()  # the next engine publishes what the tracks say as soon as it is up
    finally:
        world.crash_at = 0


def _foreign(world: World, share: int) -> None:
    row = world.active
    if row is not None and row.now.from_release and world.of(row.now.to_release).ready:
        weights = {row.now.to_release: share, row.now.from_release: 100 - share}
        world.workers = [{k: v for k, v in weights.items() if v} for _ in world.workers]


def _replica(world: World, event: Event) -> None:
    there = world.of(event.words[0])
    if event.kind == "replica dies":
        there.ready = max(0, there.ready - 1)
    elif there.wanted:
        there.ready = 0
        there.crash_loop = "5 deaths" if event.kind == "crash loop" else there.crash_loop
        there.broken = "a digest" if event.kind == "broken file" else there.broken


def heal(world: World, verb: str) -> None:
    """All is well from now on; a person presses `verb`; then the controller looks until it should be done."""
    world.held = world.frozen = False
    world.is_gateway_up = world.has_room = True
    for there in world.replicas.values():
        there.crash_loop = there.broken = ""
    world.republish()
    for number in range(HEALING_TICKS):
        if number % 20 == 0 and (number == 0 or world.active):
            happen(world, Event("verb", words=(verb,)))  # and again, for what waited and began meanwhile
        happen(world, Event("pass", 5.0))
        happen(world, Event("look"))
        if world.is_at_rest:
            return


def play(game: Game, events: Sequence[Event]) -> str | None:
    """The first invariant that breaks, with the event that broke it; None when all hold to the end."""
    world = World.begin(game)
    for number, event in enumerate([*events, Event("heal", words=("rollback",))]):
        world.happened.clear()
        before = world.active.now if world.active else None
        if event.kind == "heal":
            heal(world, event.words[0])
        else:
            happen(world, event)
        trouble = broken(world, is_healed=event.kind == "heal")
        if trouble:
            return f"event {number}, {event}: {trouble} (before: {before})"
    return None


def shrink(game: Game, events: Sequence[Event], fails: Callable[[Game, Sequence[Event]], str | None]) -> list[Event]:
    """A shorter sequence that still fails: parts are left out, halves first, single events last."""
    found = list(events)
    size = max(1, len(found) // 2)
    while size:
        at = 0
        while at < len(found):
            fewer = found[:at] + found[at + size :]
            if fails(game, fewer):
                found = fewer
            else:
                at += size
        size //= 2
    return found


def report(seed: int) -> str | None:
    """Play the sequence of `seed`: None, or what broke and the shortest way there."""
    chance = random.Random(seed)
    game = game_of(chance)
    events = draw(chance, chance.randint(5, 90))
    if play(game, events) is None:
        return None
    short = shrink(game, events, play)
    lines = "\n".join(f"    {event}" for event in short)
    return f"seed {seed}: {play(game, short)}\n  {game}\n{lines}"
