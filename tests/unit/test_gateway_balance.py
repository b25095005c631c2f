"""Two workers on one listening socket share the connections, and none waits for a worker that is gone."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import eventually

from engine.gateway.balance import FRESH_S, Balance
from engine.gateway.listening import Acceptor


class Open(asyncio.Protocol):
    """A connection that is only held."""


class Worker:
    """As much of one as accepts."""

    def __init__(self, directory: Path, number: int, listener: socket.socket) -> None:
        self.taken: list[Open] = []
        self.balance = Balance(directory, number)
        self.balance.note(0)
        self.acceptor = Acceptor(listener.dup(), self._take, None, self._yields)

    def _take(self) -> Open:
        self.taken.append(Open())
        self.balance.note(len(self.taken))
        return self.taken[-1]

    def _yields(self) -> bool:
        self.balance.note(len(self.taken))
        return self.balance.should_yield(len(self.taken))


@pytest.mark.parametrize("is_alone", [False, True])
async def test_connections_are_shared_and_a_worker_that_is_gone_is_not_waited_for(
    tmp_path: Path, is_alone: bool
) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    workers = [Worker(tmp_path, number, listener) for number in range(2)]
    clients = []
    try:
        workers[0].acceptor.open()
        if not is_alone:
            workers[1].acceptor.open()
        for number in range(1, 21):  # one after the other: the same worker would wake first each time
            clients.append(socket.create_connection(listener.getsockname()))
            await eventually(lambda: sum(len(worker.taken) for worker in workers) == number)
    finally:
        workers[0].acceptor.close()
        if not is_alone:
            workers[1].acceptor.close()
        for client in clients:
            client.close()
        listener.close()
    shares = [len(worker.taken) for worker in workers]
    assert shares == [20, 0] if is_alone else min(shares) >= 7, shares


def test_a_slot_that_nobody_writes_any_more_does_not_count(tmp_path: Path) -> None:
    now = time.monotonic()
    ours, other = Balance(tmp_path, 0, lambda: now), Balance(tmp_path, 1, lambda: now)
    assert not ours.should_yield(100)
    other.note(10)
    assert [ours.should_yield(count) for count in (11, 12)] == [False, True]
    now += FRESH_S + 1
    assert not ours.should_yield(100)
    other.note(10)
    other.leave()
    other.note(10)  # its successor has the slot now
    assert not ours.should_yield(100)


def test_a_slot_from_before_the_host_was_started_again_does_not_count(tmp_path: Path) -> None:
    Balance(tmp_path, 1, lambda: 900_000.0).note(0)
    assert not Balance(tmp_path, 0, lambda: 60.0).should_yield(100)


_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from engine.gateway.balance import Balance
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
balance = Balance(Path(sys.argv[1]), 0)
balance.note(5)
assert not balance.should_yield(5)
"""


def test_a_worker_serves_where_the_disk_has_no_room_for_the_page(tmp_path: Path) -> None:
    # Python ignores SIGXFSZ; what a full disk answers, this limit answers too.
    subprocess.run([sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)], check=True, timeout=60)
