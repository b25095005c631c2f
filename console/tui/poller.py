"""The poller: one thread between the engine and the screen. It fetches, freezes, and delivers one value at a time.

It asks for the snapshot every second and whenever the event stream says that something changed, then for what the open
screen wants beside it. It never touches a widget: `deliver` posts one message. It never gives up: while the engine is
gone it says so at every try, and goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from console.client import EngineClient
from console.rows import Known
from console.tui.audit_log import AuditLog
from console.tui.scene import Extra, Frame, Interest, Lost, ReplicaLog, ReplicaLogs
from state.words import AirbossError, Unreachable

INTERVAL_S = 1.0
QUICKEST_S = 0.1
"""A flood of events makes no more than ten looks a second."""
REPLICA_LINES = 300


class Poller:
    """Looks at one engine until stopped. Its threads are daemons: leaving the console never waits for a socket."""

    def __init__(
        self,
        factory: Callable[[], EngineClient],
        deliver: Callable[[Frame | Lost], None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._factory = factory
        self._deliver = deliver
        self._interval_s = interval_s
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._interest: Interest | None = None
        self._seq = 0
        self._known = Known()
        self._audit = AuditLog()
        self.is_listening = False

    def start(self) -> None:
        """Begin to look, and to listen."""
        for target, name in ((self._look_on, "airboss-poll"), (self._listen_on, "airboss-events")):
            threading.Thread(target=target, name=name, daemon=True).start()

    def stop(self) -> None:
        """Deliver nothing any more."""
        self._stop.set()
        self._wake.set()

    def look_at(self, interest: Interest | None) -> None:
        """Fetch this too from now on, starting at once."""
        if interest != self._interest:
            self._interest = interest
            self._wake.set()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def _look_on(self) -> None:
        lost_since: float | None = None
        with self._factory() as client:
            while not self._stop.is_set():
                self._wake.clear()
                try:
                    seen: Frame | Lost = self._look(client)
                    lost_since = None
                except AirbossError as error:
                    client.close()
                    lost_since = lost_since or time.time()
                    seen = Lost(since=lost_since, now=time.time(), error=error, address=client.address)
                if self._stop.is_set():
                    return
                self._deliver(seen)
                self._stop.wait(QUICKEST_S)
                self._wake.wait(self._interval_s - QUICKEST_S)

    def _look(self, client: EngineClient) -> Frame:
        snapshot = client.snapshot(self._known)
        self._seq = snapshot.seq
        interest = self._interest
        if interest is None:
            return Frame(snapshot)
        try:
            if interest.kind == "audit":
                return Frame(snapshot, interest, self._audit.look(client, snapshot.status))
            return Frame(snapshot, interest, fetch(client, interest))
        except Unreachable:
            raise
        except AirbossError as error:
            return Frame(snapshot, interest, None, error)

    def _listen_on(self) -> None:
        while not self._stop.is_set():
            try:
                with self._factory() as client:
                    for _event in client.events(after=self._seq):
                        self.is_listening = True
                        if self._stop.is_set():
                            return
                        self._wake.set()
            except AirbossError:
                # The poll puts the reason on screen; without the stream the console only sees things a second later.
                self.is_listening = False
            self._stop.wait(self._interval_s)


def fetch(client: EngineClient, interest: Interest) -> Extra:
    """What the open screen wants beside the snapshot."""
    if interest.kind == "rollout":
        return client.rollout(interest.ref)
    if interest.kind == "alerts":
        return tuple(client.alerts(all=True))
    if interest.kind == "log":
        return client.log(interest.ref, interest.stage, interest.offset)
    if interest.kind == "replica-logs":
        asked = {"env": interest.env, "replica": interest.stage or None, "tail": REPLICA_LINES}
        found = client.get(f"/v1/services/{interest.ref}/logs", asked)
        return ReplicaLogs(tuple(ReplicaLog(**{name: one[name] for name in ReplicaLog.__slots__}) for one in found))
    return client.lineage(interest.ref, forward=interest.forward)
