"""What is not allowed is said before it is needed: in the plan, by doctor, and as a deploy that is refused with the rule to add."""

from __future__ import annotations

from pathlib import Path

import pytest
from kube.access import Rule
from kube_room import Make

from console.doctor_cluster import findings
from state.words import Denied

ALL = Rule(["*"], ["*"])
BUT_ROUTES = [
    Rule(["get", "list", "watch"], ["*"]),
    Rule(["create", "patch"], ["deployments", "deployments/scale", "configmaps", "services", "pods/proxy"]),
    Rule(["create"], ["selfsubjectaccessreviews", "httproutes"]),
]
ROLE = '- { apiGroups: ["gateway.networking.k8s.io"], resources: [httproutes], verbs: [patch] }'


async def test_a_deploy_without_a_permission_is_refused_with_the_rule_and_begins_once_it_is_there(make: Make) -> None:
    room = make()
    await room.cluster.deployments.fill()
    room.kube.access.grant("admin-token", "ann", BUT_ROUTES)
    room.kube.requests.clear()
    shown = await room.deploy("a", dry_run=True)
    assert shown.plan is not None
    (warning,) = [one for one in shown.plan.warnings if "not allowed" in one]
    assert "patch httproutes (gateway.networking.k8s.io)" in warning and ROLE in warning
    with pytest.raises(Denied) as refused:
        await room.deploy("a")
    assert refused.value.message == "not allowed in namespace default: patch httproutes (gateway.networking.k8s.io)"
    assert refused.value.hint.splitlines()[1:] == [ROLE]
    assert room.rows() == [], "nothing has begun"
    assert room.written() == []
    room.kube.access.grant("admin-token", "ann", [ALL])
    assert (await room.deploy("a")).changed
    await room.cluster.client.close()


async def test_a_cluster_that_does_not_say_is_a_warning(make: Make) -> None:
    room = make()
    room.kube.access.expire("admin-token")
    shown = await room.deploy("a", dry_run=True)
    assert shown.plan is not None
    assert [one for one in shown.plan.warnings if "not known" in one and "does not know us" in one]
    await room.cluster.client.close()


@pytest.mark.deep
def test_doctor_says_which_verb_on_what_where(make: Make, tmp_path: Path) -> None:
    room = make()
    (tmp_path / "airboss.toml").write_text(room.toml)
    room.kube.access.grant("admin-token", "ann", BUT_ROUTES)
    ((name, level, found, todo),) = findings(room.config, tmp_path)
    assert (name, level) == ("cluster of production", "fail")
    assert found == "not allowed in namespace default: patch httproutes (gateway.networking.k8s.io)" and ROLE in todo
    room.kube.access.grant("admin-token", "ann", [ALL])
    with_gpu = room.toml.replace("[service.chat.kubernetes]", "[service.chat.kubernetes]\ngpu = 1")
    (tmp_path / "airboss.toml").write_text(with_gpu)
    ((_, level, found, _),) = findings(room.config, tmp_path)
    assert level == "ok" and found.endswith("; 8 nvidia.com/gpu on 1 node, 0 held by pods of default")
