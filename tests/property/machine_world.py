"""A world for the rollout machine, simulated: rows, journal, gateway workers, replicas and clocks, as plain values.

`engine.rollouts.machine.next_move` decides; everything around it is here what the store, the controller, the router and the
runtime are there, small enough to be played a hundred thousand times. What happens is noted in `happened`, for the
invariants (`invariants.py`) to look at. The real store and controller are played in `tests/property/engine_room.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from machine_things import Crash, Game, Happened, Intent, Lost, Moved, Replicas, Routed, Row, Scaled

from engine.rollouts.effects import PLAIN, Effect, Extras, RegistryMove, Route, Scale
from engine.rollouts.journal import RETRY_DONE_AFTER_S
from engine.rollouts.machine import next_move
from engine.rollouts.values import Facts, Move, ReplicaFacts, RolloutNow, Trouble
from engine.rollouts.verdict import Verdict
from state import clock
from state.words import RolloutState, VerdictKind

S = RolloutState
OPEN = Verdict(VerdictKind.INCONCLUSIVE, "not yet")
JUDGED = (S.SHADOWING, S.STEP_BAKING, S.VERIFYING, S.AWAITING_PROMOTION)
WORKERS = 2
READY_AFTER_S, DRAINED_AFTER_S = 4.0, 3.0
BEGAN = clock.Moment(1_000_000.0, "boot-0", 0.0)


@dataclass
class World:
    """Everything there is. `tick` is one look of the controller; the other methods are what else may happen."""

    game: Game
    rows: list[Row] = field(default_factory=list)
    journal: dict[str, Intent] = field(default_factory=dict)
    tracks: dict[str, int] = field(default_factory=dict)
    stable: str | None = None
    workers: list[dict[str, int]] = field(default_factory=list)
    extras: list[Extras] = field(default_factory=lambda: [PLAIN] * WORKERS)
    meant_extras: Extras = PLAIN
    replicas: dict[str, Replicas] = field(default_factory=dict)
    verdict: Verdict = OPEN
    verdict_serial: int = 0
    consumed: set[int] = field(default_factory=set)
    held: bool = False
    frozen: bool = False
    is_gateway_up: bool = True
    true_s: float = 0.0
    now: clock.Moment = BEGAN
    happened: list[Happened] = field(default_factory=list)
    fates: list[str] = field(default_factory=list)
    """What becomes of the next effects: ok, lost, half, unheard. Used up, then all is well."""
    crash_at: int = 0
    """How many points more until the engine dies; 0: it lives."""
    has_room: bool = True
    """Whether this place can start another process."""
    looked: dict[str, int] = field(default_factory=dict)
    """Ready replicas as the machine saw them."""

    @classmethod
    def begin(cls, game: Game) -> World:
        """A quiet world; its stable release is r0, if the game has one."""
        world = cls(game, workers=[{} for _ in range(WORKERS)])
        if game.has_stable:
            world.stable, world.tracks = "r0", {"r0": 100}
            world.workers = [{"r0": 100} for _ in range(WORKERS)]
            world.replicas["r0"] = Replicas(game.replicas, game.replicas)
        return world

    # What is there.

    @property
    def _mover(self) -> RolloutNow | None:
        return self.active.now if self.active else None

    @property
    def active(self) -> Row | None:
        """The rollout that is not over."""
        for row in self.rows:  # a hundred thousand lives ask it half a billion times: no generator
            if not row.now.state.is_terminal:
                return row
        return None

    @property
    def is_at_rest(self) -> bool:
        """Nothing moves, waits, is warm, starts or ends: however often one looks, nothing more happens by itself."""
        if self.active is not None or any(row.waits for row in self.rows):
            return False
        if any(intent.state == "pending" for intent in self.journal.values()):
            return False
        served = {name: self.game.replicas for name, weight in self.tracks.items() if weight}
        there = {name: one.ready for name, one in self.replicas.items() if one.alive}
        return served == there and self.observe() == self.tracks

    def of(self, release_id: str) -> Replicas:
        """The release's replicas, none at first."""
        return self.replicas.setdefault(release_id, Replicas())

    def observe(self) -> dict[str, int] | None:
        """Weights as every worker has them; None when they disagree or cannot be asked."""
        workers, extras = self.workers, self.extras
        agree = workers.count(workers[0]) == len(workers) and extras.count(extras[0]) == len(extras)
        return dict(workers[0]) if self.is_gateway_up and agree else None

    def present(self, row: Row) -> RolloutNow:
        """The row as the machine reads it."""
        r, is_stable = row.now, self.stable == row.now.to_release
        met = r.state is not S.ROLLING_BACK or any(
            isinstance(i.effect, Route) and i.effect.reaches(r.to_release)
            for i in self.journal.values()
            if i.rollout_id == r.id
        )
        is_so = (r.was_promoted, r.met_traffic) == (is_stable, met)
        return r if is_so else replace(r, was_promoted=is_stable, met_traffic=met)

    def facts(self, row: Row) -> Facts:
        """The world as the controller reads it."""
        r = row.now
        standing = r.resume_state if r.state is S.PAUSED else r.state
        return Facts(
            state_s=clock.elapsed_s(row.since, self.now),
            step_s=clock.elapsed_s(row.step_since, self.now) if row.step_since else 0.0,
            stable=self._replica_facts(r.from_release) if r.from_release else ReplicaFacts(),
            canary=self._replica_facts(r.to_release),
            weights=self.observe(),
            extras=self.extras[0],
            baseline=self._replica_facts(f"{r.from_release} baseline"),
            verdict=self.verdict if standing in JUDGED and row.step_since else None,
            approvals=row.approvals,
            rejections=row.rejections,
            tracks=dict(self.tracks),
            known=tuple(
                i.effect.split for i in self.journal.values() if i.rollout_id == r.id and isinstance(i.effect, Route)
            ),
            trouble=self._trouble(row),
            is_held=self.held,
            is_frozen=self.frozen,
        )

    def _trouble(self, row: Row) -> Trouble | None:
        for intent in self._pending(row):
            if intent.attempts and intent.failed_since is not None:
                since = min(max(0.0, self.now.utc - intent.failed_since), clock.elapsed_s(row.since, self.now))
                return Trouble(intent.attempts, since, intent.is_outage, intent.effect.says())
        if row.now.state in (S.STEP_APPLYING, S.PROMOTING):
            for intent in self.journal.values():
                is_mine = isinstance(intent.effect, Route) and intent.key.endswith(f"/{row.revision}")
                if is_mine and intent.rollout_id == row.now.id and intent.attempts > 1:
                    return Trouble(intent.attempts, 0.0, False, intent.effect.says())
        return None

    def _replica_facts(self, release_id: str) -> ReplicaFacts:
        there = self.of(release_id)
        return ReplicaFacts(there.ready, crash_loop=there.crash_loop, broken=there.broken, alive=there.alive)

    # What the engine does.

    def point(self) -> None:
        """A point where the engine may be killed."""
        if self.crash_at:
            self.crash_at -= 1
            if not self.crash_at:
                raise Crash

    def tick(self, between: Callable[[], None] | None = None) -> None:
        """One look of the controller, at one rollout and at what ended ones left; `between` happens meanwhile."""
        row = self.active
        if row is not None:
            self._tick(row, between)
        for intent in [i for i in self.journal.values() if i.state == "pending"]:
            owner = next(row for row in self.rows if row.now.id == intent.rollout_id)
            if owner.now.state.is_terminal:
                self._carry_out(owner, intent)
        self.retire()

    def _tick(self, row: Row, between: Callable[[], None] | None) -> None:
        seen, revision, facts = self.present(row), row.revision, self.facts(row)
        self.looked = {name: there.ready for name, there in self.replicas.items() if there.ready}
        move = next_move(seen, facts)
        if between is not None:
            between()
        self.point()
        if row.revision != revision or not (self._changes(seen, move) or move.effects):
            return
        self.commit(row, seen, move, facts)
        self.point()
        for intent in [i for i in self.journal.values() if i.state == "pending" and i.rollout_id == seen.id]:
            self._carry_out(row, intent)

    @staticmethod
    def _changes(seen: RolloutNow, move: Move) -> bool:
        return (move.state, move.step) != (seen.state, seen.step)

    def commit(self, row: Row, seen: RolloutNow, move: Move, facts: Facts | None) -> None:
        """One transaction: the row, its intents."""
        if self._changes(seen, move) or move.restarts_step:
            self._enter(row, seen, move, facts)
        else:
            wanted = {effect.slug for effect in move.effects}
            for intent in self._pending(row):
                if intent.effect.slug not in wanted:
                    intent.state = "superseded"
        for effect in move.effects:
            self._intend(row, effect)

    def _enter(self, row: Row, seen: RolloutNow, move: Move, facts: Facts | None) -> None:
        self.happened.append(
            Moved(seen, move, facts, self.true_s - row.true_step_since, self.true_s - row.true_since,
                  row.reboots > 0, (seen.id, self.verdict_serial), self.verdict_serial)
        )  # fmt: skip
        if move.consumes_verdict:
            self.consumed.add(self.verdict_serial)
        row.now = replace(
            row.now, state=move.state, step=move.step, pause_reason=move.pause_reason, resume_state=move.resume_state
        )
        if move.skips_gates:
            kept, left = row.now.steps[: move.step], row.now.steps[move.step :]
            row.now = replace(row.now, steps=(*kept, *(replace(s, settle_s=0.0) for s in left)), auto_promote=True)
        row.revision += 1
        row.since, row.true_since, row.reboots = self.now, self.true_s, 0
        for intent in self._pending(row):
            intent.state = "superseded"
        if move.state in (S.SHADOWING, S.STEP_BAKING, S.VERIFYING):
            row.step_since, row.true_step_since = self.now, self.true_s
            self.new_evidence(OPEN)
        elif move.state in (S.STEP_APPLYING, S.PROMOTING):
            row.step_since = None
        if move.state is S.COMPLETED:
            row.warm_until_true = self.true_s + self.game.warm_hold_s

    def new_evidence(self, verdict: Verdict) -> None:
        """The judge's answer from now on; a new step begins with none."""
        self.verdict = verdict
        self.verdict_serial += 1

    def _pending(self, row: Row) -> list[Intent]:
        return [
            i
            for i in self.journal.values()
            if i.rollout_id == row.now.id and i.state == "pending" and not isinstance(i.effect, RegistryMove)
        ]

    def _intend(self, row: Row, effect: Effect) -> None:
        key = f"{row.now.id}/{row.now.step}/{effect.slug}/{row.revision}"
        known = self.journal.get(key)
        if known is None:
            self.journal[key] = Intent(key, row.now.id, effect)
        elif known.state == "superseded" or (
            known.state == "done" and abs(self.now.utc - known.done_at) > RETRY_DONE_AFTER_S
        ):
            known.state = "pending"

    def _carry_out(self, row: Row, intent: Intent) -> None:
        fate = self.fates.pop(0) if self.fates else "ok"
        try:
            self._effect(row, intent.effect, fate)
        except Lost as lost:
            if intent.failed_since is None:
                intent.failed_since = self.now.utc
            intent.attempts, intent.is_outage = intent.attempts + 1, lost.is_outage
            return
        self.point()
        if fate != "unheard":
            intent.state, intent.done_at, intent.failed_since = "done", self.now.utc, None
            intent.attempts += 1
        self.point()

    def _effect(self, row: Row, effect: Effect, fate: str) -> None:
        if fate == "lost":
            raise Lost
        if isinstance(effect, Scale):
            if row.now.state.is_terminal and effect.release_id in self.kept():
                return
            name = f"{effect.release_id} {effect.role}" if effect.role else effect.release_id
            self.scale(name, effect.replicas, intended=True)
        elif isinstance(effect, Route):
            if row.now.state.is_terminal or (row.now.state is S.ROLLING_BACK and not effect.reverts):
                return
            self._route(effect, fate)

    def _route(self, effect: Route, fate: str) -> None:
        meant = self.tracks
        self.tracks, self.stable = effect.split, effect.stable
        self.meant_extras = effect.extras
        self.point()
        if not self.is_gateway_up:
            raise Lost(is_outage=True)
        for index in range(len(self.workers)):
            if fate == "half" and index:
                raise Lost
            self._give(index, self.tracks, meant)
            self.point()

    def _give(self, index: int, weights: dict[str, int], meant: dict[str, int]) -> None:
        seen = Routed(dict(self.workers[index]), dict(weights), dict(meant), frozenset(self.looked),
                      dict(self.looked), self._mover)  # fmt: skip
        self.happened.append(seen)
        self.workers[index] = dict(weights)
        self.extras[index] = self.meant_extras

    def scale(self, release_id: str, replicas: int, *, intended: bool) -> None:
        """Have so many replicas, absolutely; those too many finish their streams first."""
        there, before = self.of(release_id), self.of(release_id).wanted
        there.wanted, there.ready = replicas, min(there.ready, replicas)
        if replicas < before and not there.crash_loop:
            there.draining, there.draining_s = there.draining + before - replicas, 0.0
        if not replicas:
            there.crash_loop = ""
        if before != replicas:
            alive = {name: one.alive for name, one in self.replicas.items()}
            weights, moves = tuple(map(dict, self.workers)), self._mover
            self.happened.append(
                Scaled(release_id, before, replicas, weights, intended, alive, self._wanted(), dict(self.looked), moves)
            )

    def _wanted(self) -> int:
        r = self._mover
        both = {r.from_release, r.to_release} if r else ()
        return sum(self.of(name).wanted for name in both if name)

    def kept(self) -> set[str]:
        """Releases that must have their replicas: served, moved by an active rollout, or warm."""
        kept = set(self.tracks) | ({self.stable} if self.stable else set())
        for row in self.rows:
            r = row.now
            if not r.state.is_terminal:
                kept |= {r.from_release, f"{r.from_release} baseline"} if r.from_release else set()
                kept |= {r.to_release} if r.state not in (S.PLANNED, S.AWAITING_APPROVAL) else set()
            elif r.state is S.COMPLETED and r.from_release and not r.replaces and self.true_s < row.warm_until_true:
                kept.add(r.from_release)
        return kept

    def retire(self) -> None:
        """Have what a track serves; stop what nothing wants."""
        row = self.active
        asked = row is not None and row.now.replaces and self._commanded(row)
        for release_id, weight in () if asked else self.tracks.items():
            if weight and self.of(release_id).wanted < self.game.replicas:
                self.scale(release_id, self.game.replicas, intended=False)
        weights, kept = self.observe(), self.kept()
        for release_id, there in self.replicas.items():
            may_serve = weights is None or weights.get(release_id)
            if there.wanted and release_id not in kept and not may_serve:
                self.scale(release_id, 0, intended=False)

    def _commanded(self, row: Row) -> bool:
        """The rollout counts the replicas itself: it has asked for some."""
        return any(
            i.rollout_id == row.now.id and isinstance(i.effect, Scale) and i.state != "superseded"
            for i in self.journal.values()
        )

    # What the world does.

    def passes(self, seconds: float) -> None:
        """Time goes by; replicas that are wanted come up."""
        self.true_s += seconds
        self.now = clock.Moment(self.now.utc + seconds, self.now.boot, self.now.mono + seconds)
        for there in self.replicas.values():
            if there.draining:
                there.draining_s += seconds
                there.draining = 0 if there.draining_s >= DRAINED_AFTER_S else there.draining
            if self.has_room and there.wanted > there.ready and not there.crash_loop and not there.broken:
                there.waiting_s += seconds
                if there.waiting_s >= READY_AFTER_S:
                    there.ready, there.waiting_s = there.wanted, 0.0
            else:
                there.waiting_s = 0.0

    def step_clock(self, seconds: float) -> None:
        """The wall clock is set; the monotonic one is not."""
        self.now = replace(self.now, utc=self.now.utc + seconds)

    def reboot(self) -> None:
        """Another boot: the monotonic clock starts again, every process is gone, gateways come back with their kept table."""
        boot = int(self.now.boot.rpartition("-")[2]) + 1
        self.now = clock.Moment(self.now.utc, f"boot-{boot}", 0.0)
        for row in self.rows:
            row.reboots += 1
        for there in self.replicas.values():
            there.ready = there.draining = 0

    def republish(self) -> None:
        """The router gives every worker the table that the tracks say, as after any change of replicas."""
        if self.is_gateway_up:
            for index in range(len(self.workers)):
                self._give(index, self.tracks, self.tracks)
