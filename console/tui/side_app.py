"""What the console opens beside its views: a comparison, the scale menu, a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import SuspendNotSupported
from textual.timer import Timer

from console.tui.acting_app import ActingApp
from console.tui.acts import Refused, ref_of
from console.tui.scale_choices import advice, scale_choices
from console.tui.scene import Item
from console.tui.side_by_side import pair_of, release_of
from console.tui.terminal import OURS_ALONE
from engine.api.schemas import ReplicaView, RunView, Snapshot

if TYPE_CHECKING:
    from console.tui.screens.ask import Whom

ASK_TIMEOUT_S = 60.0


class SideApp(ActingApp):
    """An app with a comparison, a menu and a shell."""

    _compared = ""
    """The release that `=` was pressed on first."""
    _waits_to_tour: Timer | None = None
    tour_mark: Path | None = None
    """The file that says the tour was shown; without it nobody is shown it unasked."""

    async def on_mount(self) -> None:
        """Begin the tour, once a user and host, when there is something to see: without an engine its message is what counts."""
        if self.tour_mark is not None and not self.tour_mark.exists():
            self._waits_to_tour = self.set_interval(0.1, self._begin_tour)

    def _begin_tour(self) -> None:
        if self.scene.frame is None or self.tour_mark is None or self._waits_to_tour is None:
            return
        self._waits_to_tour.stop()
        try:
            self.tour_mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.tour_mark.touch()
        except OSError:
            return  # where it cannot be remembered, it is not shown at each run
        if len(self.screen_stack) == 2:
            self.open_tour()

    def open_tour(self) -> None:
        """Five screens of what one needs first."""
        from console.tui.screens.tour import TourScreen

        self.push_screen(TourScreen())

    def compare(self, item: Item) -> None:
        """Two releases: those of a rollout or a service, or the one of before and this one."""
        snapshot = self.scene.snapshot
        if snapshot is None:
            return
        name = release_of(item)
        if name:
            if self._compared in ("", name):
                self._compared = name
                self.say(f"{name} · now = on another release shows what differs", "info")
                return
            pair: tuple[str, str] | str = (self._compared, name)
            self._compared = ""
        else:
            pair = pair_of(item, snapshot)
        if isinstance(pair, str):
            self.say(pair)
        else:
            from console.tui.screens.compare import CompareScreen

            self.push_screen(CompareScreen(*pair, self.console_screen.tab))

    def open_scale_menu(self, item: Item) -> None:
        """The menu of what may be done to capacity and traffic."""
        reason = self.why_not(item)
        snapshot = self.scene.snapshot
        if reason or snapshot is None:
            self.say(f"S: {reason}", "warn")
            return
        choices = scale_choices(item, snapshot)
        if isinstance(choices, Refused):
            self.say(f"S: {choices.reason}", "warn")
            return
        from console.tui.screens.scale import ScaleScreen

        service, env = str(getattr(item, "service", "")), str(getattr(item, "env", ""))
        protected = any(row.protected for row in snapshot.fleet if row.env == env)
        self.push_screen(ScaleScreen(service, env, protected, choices, advice(service, env)), self._chosen)

    def open_logs(self, item: Item) -> None:
        """What an object wrote: a run's stages, a service's replicas, one replica."""
        if isinstance(item, RunView):
            from console.tui.screens.run import RunScreen

            self.push_screen(RunScreen(item.id))
            return
        service, env = str(getattr(item, "service", "")), str(getattr(item, "env", ""))
        if not service:
            self.say(f"{ref_of(item)} is of no service: its log is a file in .airboss/logs", "warn")
            return
        replica = item.spawn_id if isinstance(item, ReplicaView) else ""
        from console.tui.screens.replica_logs import ReplicaLogScreen

        self.push_screen(ReplicaLogScreen(item, self.console_screen.tab, service, env, replica))

    def open_ask(self, item: Item) -> None:
        """One request to a track of the object's service, or to the replica it is."""
        snapshot = self.scene.snapshot
        if snapshot is None or self.scene.lost is not None:
            self.say("r: the engine is unreachable; `airboss service ask` asks the gateway", "warn")
            return
        service, env = str(getattr(item, "service", "")), str(getattr(item, "env", ""))
        whoms = whom_of(item, snapshot)
        if not whoms:
            self.say(f"r: nothing serves {service or 'that'}", "warn")
            return

        async def send(body: Mapping[str, Any]) -> Mapping[str, Any]:
            return await self._engine().ask(body, ASK_TIMEOUT_S)

        protected = any(row.protected for row in snapshot.fleet if row.env == env)
        from console.tui.screens.ask import AskScreen

        self.push_screen(AskScreen(service, env, protected, whoms, send))

    def open_shell(self, item: Item | None) -> None:
        """A shell in the console's place, in the workspace, knowing the object."""
        words, more, where = shell_of(item, self.scene.snapshot, os.environ, read_only=self.scene.read_only)
        try:
            with self.suspend():
                os.write(
                    1, f"airboss: a shell in {where or 'this directory'}; `exit` comes back to the console\n".encode()
                )
                env = {name: value for name, value in os.environ.items() if name not in OURS_ALONE} | more
                code = subprocess.run(words, cwd=where or None, env=env, check=False).returncode
        except SuspendNotSupported:
            self.say("this terminal cannot be given to a shell", "warn")
        except OSError as error:
            self.say(f"✗ {words[0]} could not be started: {error.strerror}", "bad")
        else:
            self.say(f"back from the shell, which ended with {code}")
        self.poller.wake()


def whom_of(item: Item, snapshot: Snapshot) -> list[Whom]:
    """Who can be asked: the replica that the object is, else its service's tracks, those with a rollout's release first."""
    if isinstance(item, ReplicaView):
        known = item.kind == "model" and item.service
        return [(f"{item.spawn_id}, a replica of {item.release_id}", {"replica": item.spawn_id})] if known else []
    place = (str(getattr(item, "service", "")), str(getattr(item, "env", "")))
    row = next((r for r in snapshot.fleet if (r.service, r.env) == place), None)
    tracks = sorted(row.tracks, key=lambda t: t.track == "stable") if row is not None else []
    return [
        (f"{t.track}: {t.release_id}, {t.weight} %, {t.ready} of {t.replicas} ready", {"track": t.track})
        for t in tracks
    ]


def shell_of(
    item: Item | None, snapshot: Snapshot | None, environ: Mapping[str, str], *, read_only: bool
) -> tuple[list[str], dict[str, str], str]:
    """The words that start the shell, what is added to its environment, and its directory ("" for this one)."""
    shell = environ.get("SHELL") or shutil.which("bash") or "/bin/sh"
    workspace = snapshot.status.workspace if snapshot is not None else ""
    where = workspace if workspace and os.path.isdir(workspace) else ""
    more = {"AIRBOSS_WORKSPACE": where} if where else {}
    if read_only:
        # The promise holds in there too, as far as `airboss` goes.
        more["AIRBOSS_READ_ONLY"] = "1"
    if item is not None:
        facts = {"REF": ref_of(item), "SERVICE": getattr(item, "service", ""), "ENV": getattr(item, "env", ""),
                 "RELEASE": getattr(item, "release_id", "") or ""}  # fmt: skip
        more |= {f"AIRBOSS_{name}": str(value) for name, value in facts.items() if value}
    if isinstance(item, ReplicaView):
        more |= {"AIRBOSS_REPLICA": item.spawn_id, "AIRBOSS_PID": str(item.pid)}
    return [shell], more, where
