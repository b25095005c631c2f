"""What of what the configuration needs we are not allowed: asked of the cluster before an incident asks.

`python -m adapters.kubernetes.permissions ROOT` says it of every environment of a workspace that runs in a cluster, a line of
JSON each: `airboss doctor` asks so, with an engine or without.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from adapters.kubernetes.access import read_access
from adapters.kubernetes.capacity import gpus_said
from adapters.kubernetes.client import KubeClient
from adapters.kubernetes.roles import Need, needs, role_lines
from state.config import load_config
from state.kubernetes_config import Target
from state.words import AirbossError, Denied, Unreachable

ASKING_S = 10.0


async def missing(client: KubeClient, target: Target) -> tuple[Need, ...]:
    """What is not allowed of what a rollout there will ask. Raises AirbossError when the cluster does not say."""
    asked = needs(target)
    try:
        async with asyncio.timeout(ASKING_S):
            allowed = await asyncio.gather(*(is_allowed(client, target.namespace or "", need) for need in asked))
    except TimeoutError:
        raise Unreachable(
            f"the cluster did not say within {ASKING_S:g} s what we are allowed", hint="it is asked again every minute"
        ) from None
    return tuple(need for need, yes in zip(asked, allowed, strict=True) if not yes)


async def is_allowed(client: KubeClient, namespace: str, need: Need) -> bool:
    """What a SelfSubjectAccessReview says."""
    attributes = {
        "namespace": namespace, "group": need.group, "resource": need.resource, "subresource": need.sub, "verb": need.verb,
    }  # fmt: skip
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {name: value for name, value in attributes.items() if value}},
    }  # fmt: skip
    answer = await client.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer.get("status", {}).get("allowed"))


def lacking(namespace: str, found: Iterable[Need]) -> Denied:
    """The refusal of what would come to a 403 on its way."""
    found = tuple(found)
    return Denied(
        f"not allowed in namespace {namespace}: {', '.join(map(str, found))}",
        hint="let the Role that the engine has there say\n" + "\n".join(role_lines(found)),
        code="kube_forbidden",
    )


async def _say(env: str, target: Target, root: Path, gpu_resources: Iterable[str]) -> dict[str, Any]:
    client = KubeClient(partial(read_access, target.context, target.kubeconfig, root), timeout_s=target.timeout)
    said: dict[str, Any] = {"env": env, "namespace": target.namespace, "missing": [], "rules": []}
    try:
        found = await missing(client, target)
        gpus = [await gpus_said(client, target.namespace or "", resource) for resource in gpu_resources]
        return {
            **said, "missing": [str(need) for need in found], "rules": role_lines(found), "gpus": "; ".join(filter(None, gpus)),
        }  # fmt: skip
    except AirbossError as error:
        return {**said, "error": error.as_dict()}
    finally:
        await client.close()


async def _main(root: Path) -> None:
    config = load_config(root)
    gpu_resources = sorted({one.kubernetes.gpu_resource for one in config.service.values() if one.kubernetes.gpu})
    targets = [
        (env, target)
        for env, settings in config.environment.items()
        for target in settings.targets
        if target.runtime == "kubernetes"
    ]
    for said in await asyncio.gather(*(_say(env, target, root, gpu_resources) for env, target in targets)):
        sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
