"""The API server's HTTP: what is asked again, what is not, and what its refusals say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from adapters.kubernetes.access import Access, expiry_said
from adapters.kubernetes.client import Expired, KubeClient
from adapters.kubernetes.refusals import said_path
from adapters.kubernetes.watch import Cache
from state.words import AirbossError, Conflict, Denied, Unreachable

POD = "/api/v1/namespaces/ml/pods/a"
Answer = Callable[[httpx.Request], httpx.Response]


def client_of(*answers: httpx.Response | Exception, seen: list[httpx.Request] | None = None) -> KubeClient:
    """A client of a server that gives these answers, one after the other."""
    left = list(answers)

    def serve(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    tokens = iter(["old", "new", "newer"])
    return KubeClient(
        lambda: Access("http://cluster", {"authorization": f"Bearer {next(tokens)}"}),
        transport=httpx.MockTransport(serve),
        pause_s=0.001,
    )


def refusal(status: int, message: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"kind": "Status", "message": message}, headers=headers)


async def test_expired_credentials_are_read_again_and_the_request_is_made_with_the_new_ones() -> None:
    seen: list[httpx.Request] = []
    client = client_of(refusal(401, "Unauthorized"), httpx.Response(200, json={"kind": "Pod"}), seen=seen)
    assert await client.get(POD) == {"kind": "Pod"}
    assert [r.headers["authorization"] for r in seen] == ["Bearer old", "Bearer new"]


async def test_a_busy_server_is_asked_again_when_it_says_so_even_for_a_patch() -> None:
    client = client_of(refusal(429, "slow down", **{"retry-after": "0"}), httpx.Response(200, json={"ok": 1}))
    assert await client.patch(POD, [{"op": "test", "path": "/a", "value": 1}]) == {"ok": 1}


async def test_a_patch_that_timed_out_is_not_made_twice_and_a_read_is() -> None:
    seen: list[httpx.Request] = []
    client = client_of(httpx.ReadTimeout("slow"), seen=seen)
    with pytest.raises(Unreachable, match="did not answer PATCH"):
        await client.patch(POD, [])
    assert len(seen) == 1
    assert await client_of(httpx.ReadTimeout("slow"), httpx.Response(200, json={"b": 1})).get(POD) == {"b": 1}


@pytest.mark.parametrize(
    ("status", "message", "kind", "says"),
    [
        (403, 'pods is forbidden: User "x" cannot patch', Denied, "not allowed: patch pods/a in ml"),
        (403, "pods a is forbidden: exceeded quota: gpus", Denied, "admission refuses pods/a in ml"),
        (409, 'conflict with "argocd" using apps/v1: .spec.replicas', Conflict, "argocd"),
        (422, "test operation failed", Conflict, "has moved"),
        (503, "etcd is away", Unreachable, "503"),
    ],
)
async def test_a_refusal_says_what_was_refused_and_why(
    status: int, message: str, kind: type[AirbossError], says: str
) -> None:
    client = client_of(*[refusal(status, message)] * 4)
    with pytest.raises(kind, match=says) as caught:
        await client.patch(POD, [{"op": "test", "path": "/a", "value": 1}])
    assert caught.value.hint


async def test_an_apply_never_forces_and_names_its_manager() -> None:
    seen: list[httpx.Request] = []
    await client_of(httpx.Response(200, json={}), seen=seen).apply(POD, {"kind": "Pod"})
    assert dict(seen[0].url.params) == {"fieldManager": "airboss", "force": "false"}
    assert seen[0].headers["content-type"] == "application/apply-patch+yaml"


async def test_a_long_list_is_read_page_by_page() -> None:
    first = {"metadata": {"continue": "more", "resourceVersion": "5"}, "items": [{"n": 1}]}
    last = {"metadata": {"resourceVersion": "5"}, "items": [{"n": 2}]}
    client = client_of(httpx.Response(200, json=first), httpx.Response(200, json=last))
    assert await client.list("/api/v1/namespaces/ml/pods") == ([{"n": 1}, {"n": 2}], "5")


@pytest.mark.parametrize(
    "answer",
    [
        refusal(410, "too old"),
        httpx.Response(200, text=json.dumps({"type": "ERROR", "object": {"code": 410, "message": "old"}}) + "\n"),
    ],
    ids=["as a status", "as an event"],
)
async def test_a_watch_that_begins_too_early_says_expired(answer: httpx.Response) -> None:
    with pytest.raises(Expired):
        async for _ in client_of(answer).watch("/api/v1/namespaces/ml/pods", "", "1"):
            pass


async def test_a_cache_follows_events_lists_again_after_410_and_says_why_it_is_old() -> None:
    def listed(version: str, *names: str) -> httpx.Response:
        items = [{"metadata": {"name": name, "resourceVersion": version}} for name in names]
        return httpx.Response(200, json={"metadata": {"resourceVersion": version}, "items": items})

    def event(kind: str, name: str, version: str) -> str:
        return json.dumps({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": version}}}) + "\n"

    seen: list[httpx.Request] = []
    states: list[set[str]] = []
    client = client_of(
        listed("1", "a"),
        httpx.Response(200, text=event("ADDED", "b", "2") + event("DELETED", "a", "3")),
        refusal(410, "too old"),
        listed("9", "c"),
        refusal(403, "pods is forbidden"),
        seen=seen,
    )
    cache = Cache(client, "/api/v1/namespaces/ml/pods", "x=y", lambda: states.append(set(cache.objects)))
    with pytest.raises(IndexError):  # the server has no more answers
        await asyncio.wait_for(cache.run(), 10)
    assert states == [{"a"}, {"a", "b"}, {"b"}, {"c"}]
    assert seen[2].url.params["resourceVersion"] == "3"
    assert "not allowed: watch pods in ml" in cache.trouble


def test_when_credentials_end_is_said_in_words() -> None:
    assert expiry_said(None) == ""
    assert expiry_said(3600.0, 0.0) == "credentials expire in 60 min"
    assert expiry_said(1.0, 2.0) == "credentials have expired"
    assert said_path("/apis/apps/v1/namespaces/ml/deployments/chat/scale") == "deployments/chat/scale in ml"
