"""Several engines of one environment: one writes, the others wait; who lost the lease writes nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from kube.server import KubeServer
from kube_things import deployment

from adapters.kubernetes.access import read_access
from adapters.kubernetes.client import KubeClient
from adapters.kubernetes.lease import FENCE, Lease
from state.words import Unreachable

LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases/airboss-production"
SERVICES = "/apis/apps/v1/namespaces/default/deployments"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(kube: KubeServer, kubeconfig: Path, clock: Clock) -> AsyncIterator[Callable[[str], Lease]]:
    clients = []

    def made(holder: str) -> Lease:
        client = KubeClient(partial(read_access, None, str(kubeconfig), Path("/")), timeout_s=10.0)
        clients.append(client)
        lease = Lease(client, LEASES, holder, clock=clock)
        client.before_write, client.sign = lease.check, lease.signed
        return lease

    yield made
    for client in clients:
        await client.close()


async def applied(lease: Lease, name: str) -> str:
    """The term that an object of this name carries once this engine has applied it."""
    there = await lease._client.apply(f"{SERVICES}/{name}", deployment(name))
    return str(there["metadata"]["annotations"][FENCE])


async def test_the_second_engine_waits_and_takes_over_once_nobody_renews(
    engine: Callable[[str], Lease], clock: Clock
) -> None:
    first, second = engine("ann@one:/ws"), engine("bob@two:/ws")
    await first.turn()
    await second.turn()
    assert (first.term, first.is_held, second.is_held) == (1, True, False)
    assert await applied(first, "chat") == "1"
    with pytest.raises(Unreachable, match="ann@one:/ws holds the lease"):
        await applied(second, "chat")
    clock.now += 15
    await first.turn()
    clock.now += 20
    await second.turn()
    assert not second.is_held, "it was renewed: the time counts from there"
    clock.now += 30
    await second.turn()
    assert second.term == 2 and await applied(second, "other") == "2"


async def test_who_lost_the_lease_writes_nothing_more_though_it_does_not_know(
    engine: Callable[[str], Lease], kube: KubeServer, clock: Clock
) -> None:
    """A laptop that slept: it has not looked since, and its own clock alone stops it, before another may write."""
    first, second = engine("ann@one:/ws"), engine("bob@two:/ws")
    await first.turn()
    await second.turn()
    clock.now += 21
    assert not first.is_held, "before the 30 s are over, less what a request may take"
    kube.requests.clear()
    with pytest.raises(Unreachable, match="could not be renewed in time"):
        await applied(first, "chat")
    assert kube.requests.writes() == []
    clock.now += 10
    await second.turn()
    await first.turn()
    assert second.is_held and not first.is_held and first.term == 0


async def test_a_later_terms_object_is_not_written_by_an_earlier_one(
    engine: Callable[[str], Lease], clock: Clock
) -> None:
    """The stopped clock: whatever an engine thinks, the term on the object tells, and the patch tests the object's version."""
    first, second = engine("ann@one:/ws"), engine("bob@two:/ws")
    await first.turn()
    await second.turn()
    clock.now += 31
    await second.turn()
    await applied(second, "chat")
    first._until = clock.now + 1000
    there = await first._client.get(f"{SERVICES}/chat")
    assert there is not None and first.is_held
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": there["metadata"]["resourceVersion"]}
    with pytest.raises(Unreachable, match="written by term 2 of the lease, and ours is 1"):
        first.fenced(there, [test])
    assert second.fenced(there, [test]) == [test], "its own term stands there already"


async def test_two_that_reach_for_it_at_once_get_one(engine: Callable[[str], Lease]) -> None:
    first, second = engine("ann@one:/ws"), engine("bob@two:/ws")
    await asyncio.gather(first.turn(), second.turn())
    assert sorted([first.is_held, second.is_held]) == [False, True]


async def test_an_engine_that_comes_back_goes_on_at_once_in_a_term_of_its_own(engine: Callable[[str], Lease]) -> None:
    await engine("ann@one:/ws").turn()
    again = engine("ann@one:/ws")
    await again.turn()
    assert again.term == 2 and again.is_held


async def test_what_is_given_back_is_free_at_once(engine: Callable[[str], Lease]) -> None:
    first, second = engine("ann@one:/ws"), engine("bob@two:/ws")
    await first.turn()
    await first._give_back()
    await second.turn()
    assert second.is_held and not first.is_held
