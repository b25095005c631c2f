"""What the console knows at one moment, as frozen values; screens are functions of it. No textual here."""

from __future__ import annotations

from dataclasses import dataclass

from console.rows import Rows
from console.wire import Address
from engine.api.schemas import (
    AlertView,
    EventView,
    FleetRow,
    LineageNode,
    LogChunk,
    ReleaseView,
    ReplicaView,
    RolloutView,
    RunView,
    SloView,
    Snapshot,
)
from state.words import AirbossError

Item = FleetRow | RolloutView | RunView | ReleaseView | AlertView | SloView | ReplicaView | EventView
"""What a row of a view, or a page, is about."""


@dataclass(frozen=True, slots=True)
class Interest:
    """What the open screen wants beside the snapshot; fetched by the poller, so that the UI loop waits for nothing."""

    kind: str
    """`rollout`, `alerts`, `audit`, `log`, `replica-logs` or `lineage`."""
    ref: str = ""
    stage: str = ""
    offset: int = 0
    forward: bool = False
    env: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaLog:
    """What one replica wrote last, and how it stands; `ended_at` None while it lives."""

    id: str
    release_id: str
    state: str
    started_at: float
    ended_at: float | None
    end_cause: str
    text: str


@dataclass(frozen=True, slots=True)
class ReplicaLogs:
    """Those of a service, the newest replica first."""

    logs: tuple[ReplicaLog, ...]


Extra = ReplicaLogs | RolloutView | LogChunk | LineageNode | tuple[AlertView, ...] | Rows[EventView]


@dataclass(frozen=True, slots=True)
class Frame:
    """One look at the engine: its snapshot, and what the open screen asked for."""

    snapshot: Snapshot
    interest: Interest | None = None
    extra: Extra | None = None
    fault: AirbossError | None = None
    """Why `extra` could not be had, though the engine answers."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The engine does not answer."""

    since: float
    now: float
    error: AirbossError
    address: Address


@dataclass(frozen=True, slots=True)
class Scope:
    """What of the snapshot is shown: one environment or all, rows with a text (`!text` for those without), history."""

    env: str | None = None
    filter: str = ""
    history: bool = False

    def admits(self, text: str) -> bool:
        """Whether a row with this text is shown."""
        wanted = self.filter.strip().lower()
        if not wanted:
            return True
        if wanted.startswith("!"):
            return wanted[1:] not in text.lower() if wanted[1:] else True
        return wanted in text.lower()


@dataclass(frozen=True, slots=True)
class Scene:
    """All a screen needs: the frame, whether the engine is gone or the screen held, and what is shown."""

    frame: Frame | None = None
    lost: Lost | None = None
    held: bool = False
    env: str | None = None
    read_only: bool = False

    @property
    def snapshot(self) -> Snapshot | None:
        """The last snapshot, if there ever was one."""
        return self.frame.snapshot if self.frame else None

    @property
    def now(self) -> float:
        """The engine's clock: what durations are counted to."""
        return self.frame.snapshot.as_of if self.frame else self.lost.now if self.lost else 0.0

    @property
    def is_stale(self) -> bool:
        """What is on screen is no longer so."""
        return self.lost is not None
