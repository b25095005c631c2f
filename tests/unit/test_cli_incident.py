"""The incident report: what belongs to it, what people did as a script that parses, and hostile text that stays text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from console.commands.grammar import parse_line
from console.commands.incident import gather, markdown, script_lines
from state.words import Unreachable

T0 = 1_795_000_000.0


def event(
    number: int, action: str, ref: str, actor: str = "user:ann", reason: str = "", **detail: Any
) -> dict[str, Any]:
    return {
        "id": number,
        "at": T0 + number,
        "actor": actor,
        "action": action,
        "ref": ref,
        "reason": reason,
        "detail": detail,
    }


def rollout(name: str, service: str = "chat", at: float = T0, ended: float | None = None) -> dict[str, Any]:
    return {
        "id": name, "service": service, "env": "production", "from_release": "r-1", "to_release": "r-2", "state": "rolled_back",
        "created_by": "user:ann", "created_at": at, "state_since": at + 60, "finished_at": ended, "message": "went back",
        "steps": [{"idx": 0, "verdict": {"kind": "FAIL", "sentence": "Errors: 9 | 10 <b>bad</b> `x`"}}],
    }  # fmt: skip


def alert(number: int, service: str, starts: float, ends: float | None = None) -> dict[str, Any]:
    return {
        "id": number, "name": "ErrorBudgetBurn", "severity": "page", "service": service, "env": "production" if service else "",
        "summary": "it burns", "starts_at": starts, "ends_at": ends, "acked_by": "",
    }  # fmt: skip


EVENTS = [
    event(
        1,
        "rollout.planned",
        "rollout:ro-1",
        reason="new weights; $(boom)",
        service="chat",
        env="production",
        to_release="r-2",
    ),
    event(2, "rollout.step_baking", "rollout:ro-1", actor="system:engine", **{"from": "step_applying"}),
    event(3, "rollout.paused", "rollout:ro-1", **{"from": "step_baking"}),
    event(4, "rollout.step_applying", "rollout:ro-1", **{"from": "paused"}),
    event(5, "alert.ack", "alert:7"),
    event(6, "rollout.rolling_back", "rollout:ro-1", reason="users complain", **{"from": "step_baking"}),
    event(7, "note", "service:chat", reason="it's over"),
    event(8, "pipeline.run", "run:run-9"),
    event(9, "rollout.planned", "rollout:ro-2", service="search", env="production", to_release="s-2"),
]


class Record:
    def __init__(self, **answers: Any) -> None:
        self._answers = {"/v1/audit": EVENTS, "/v1/rollouts": [rollout("ro-1"), rollout("ro-2", "search")], **answers}

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        if path == "/v1/slos" and "/v1/slos" not in self._answers:
            raise Unreachable("no engine answers")
        found = self._answers.get(path, [])
        wanted = (params or {}).get("service")
        return [one for one in found if not wanted or one["service"] == wanted] if path == "/v1/rollouts" else found


def test_it_holds_what_overlaps_the_stretch_and_concerns_the_service() -> None:
    alerts = [
        alert(1, "chat", T0 - 500, T0 - 400),
        alert(2, "chat", T0 - 500),
        alert(3, "search", T0),
        alert(4, "", T0),
    ]
    found = gather(Record(**{"/v1/alerts": alerts}), T0, T0 + 8, service="chat", env="production")  # type: ignore[arg-type]
    assert [one["id"] for one in found["alerts"]] == [2, 4]
    assert [one["id"] for one in found["rollouts"]] == ["ro-1"]
    assert [one["id"] for one in found["events"]] == [1, 2, 3, 4, 5, 6, 7]
    assert found["slos"] == [{"unknown": "no engine answers"}], "without an engine the rest is worth having"
    assert [one["id"] for one in gather(Record(), T0, T0 + 99, service="", env="")["events"]] == list(range(1, 10))  # type: ignore[arg-type]


def test_what_people_did_is_a_script_of_the_same_grammar() -> None:
    lines = list(script_lines(EVENTS, {"rollout:ro-1": rollout("ro-1"), "rollout:ro-2": rollout("ro-2", "search")}))
    done = [line for line in lines if not line.startswith("#")]
    assert done == [
        "deploy chat r-2 --env production --yes --confirm-name chat --reason 'new weights; $(boom)'",
        "rollout pause ro-1",
        "rollout resume ro-1 --yes",
        "alert ack 7",
        "rollback chat --env production --yes --reason 'users complain'",
        "note service/chat 'it'\"'\"'s over'",
        "deploy search s-2 --env production --yes --confirm-name search",
    ]
    for line in done:
        parse_line(line)
    assert "# pipeline.run run/run-9" in lines, "what has no line of its own is a comment, not left out"


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J", "| new | row |", "<script>x</script>", "\n## Heading", "[x](javascript:y)", "```\nrm -rf /"]
)
def test_somebody_elses_text_stays_text(hostile: str) -> None:
    events = [event(1, "note", "service:chat", reason=f"before {hostile} after")]
    found = gather(Record(**{"/v1/audit": events, "/v1/rollouts": []}), T0, T0 + 9, service="", env="")  # type: ignore[arg-type]
    table = markdown(found).split("## Timeline")[1].split("## What people did")[0]
    (row,) = [line for line in table.splitlines() if "note" in line]
    assert row.count(" | ") == 3 and "before" in row and "after" in row
    assert "\x1b" not in markdown(found) and "<script>" not in row
    assert markdown(found).count("\n```") == 2, "the script's fence is not ended by a reason"
