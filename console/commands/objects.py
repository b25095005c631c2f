"""The object behind a reference, and the values that expressions look up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from console.commands.expressions import dig
from state.words import OperationFailed, UsageError

if TYPE_CHECKING:
    from console.commands.reading import Get


def fetch(get: Get, ref: str) -> dict[str, Any]:
    """The object of `rollout/ro-3`, `run/run-2`, `release/R`, `alert/3`, `service/NAME@ENV`, `slo/NAME@ENV`, `status`."""
    kind, _, name = ref.partition("/")
    if kind in ("rollout", "run", "release"):
        found = get(f"/v1/{kind}s/{name}")
        assert isinstance(found, dict)
        return found
    if kind == "alert":
        rows = [a for a in get("/v1/alerts", {"all": 1}) if str(a["id"]) == name]
    elif kind in ("service", "slo"):
        service, _, env = name.partition("@")
        rows = [
            r
            for r in get("/v1/fleet" if kind == "service" else "/v1/slos")
            if r["service"] == service and env in ("", r["env"])
        ]
        if len(rows) > 1:
            raise UsageError(f"{service!r} is in several environments", hint=f"say {kind}/{service}@{rows[0]['env']}")
    elif ref == "status":
        rows = [get("/v1/status")]
    elif ref == "alerts":
        rows = [_alerts(get)]
    else:
        raise UsageError(
            f"{ref!r} has no fields to ask for",
            hint="rollout/, run/, release/, alert/, service/NAME@ENV, slo/NAME@ENV, status, alerts",
        )
    if not rows:
        raise OperationFailed(f"there is no {ref}", code="not_found", hint=f"`airboss {kind} list` shows what there is")
    return dict(rows[0])


def _alerts(get: Get) -> dict[str, Any]:
    active = get("/v1/alerts")
    return {
        "active": len(active),
        "paging": sum(a["severity"] == "page" for a in active),
        "acked": sum(bool(a["acked_by"]) for a in active),
        "names": ",".join(sorted({a["name"] for a in active})),
    }


def lookup(get: Get) -> Callable[[str], Any]:
    """A lookup of `KIND/NAME.FIELD` paths; each object is asked for once."""
    seen: dict[str, dict[str, Any]] = {}

    def find(path: str) -> Any:
        ref, _, rest = path.partition(".")
        if ref not in seen:
            seen[ref] = fetch(get, ref)
        return dig(seen[ref], rest, ref)

    return find
