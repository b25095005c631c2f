"""The rollback's benchmark: its users note who answers, its peers switch, its rows say what was found."""

from __future__ import annotations

import time

from servers import needs_haproxy

from engine.bench.programs import Programs
from engine.bench.rollback import peers
from engine.bench.rollback.bench import OURS, Switched, rows, under_load
from engine.bench.rollback.deck import BAD, GOOD
from engine.bench.rollback.users import Seen


def switched(last_ms: float, *, failed: int = 0, broken: int = 0) -> Switched:
    errors = {"status 503": failed} if failed else {}
    return Switched(
        {"answered": 1.0, "last bad request": last_ms},
        Seen([(BAD, 1), (GOOD, 2)], streams=4, broken=broken, failed=failed, errors=errors),
    )


def test_the_last_request_is_the_last_that_reached_the_bad_release() -> None:
    seen = Seen([(BAD, 5_000_000), (GOOD, 9_000_000), (BAD, 8_000_000), (GOOD, 20_000_000)])
    assert seen.last_ms(BAD, 2_000_000) == 6.0
    assert seen.last_ms(BAD, 30_000_000) == 0.0


def test_ours_is_judged_at_p99_and_others_are_not() -> None:
    found = {OURS: [switched(9.0)] * 98 + [switched(101.0)] * 2, "other": [switched(500.0, failed=3)]}
    made = rows(found)
    assert [(r.name, r.ours) for r in made if r.met is False] == [("last bad request p99", 101.0)]
    other = next(r for r in made if r.name == "failed requests" and r.other_name == "other")
    assert (other.other, other.met) == (3.0, None) and "status 503: 3" in other.note


def test_a_failed_request_or_a_broken_stream_misses_the_target() -> None:
    made = rows({OURS: [switched(1.0), switched(1.0, failed=1, broken=2)]})
    assert [r.name for r in made if r.met is False] == ["failed requests", "broken streams"]


@needs_haproxy
def test_a_switch_under_load_is_seen_by_its_users() -> None:
    with Programs() as programs:
        proxy = peers.haproxy(programs, peers.toys(programs))
        assert proxy is not None
        found = under_load(proxy.port, proxy.switch, lambda: None)
        after = time.monotonic_ns()
    releases = {name for name, _ in found.seen.marks}
    assert releases == {GOOD, BAD} and (found.seen.failed, found.seen.broken) == (0, 0)
    assert found.seen.streams > 0 and found.parts["last bad request"] >= 0.0
    last = max(at for name, at in found.seen.marks if name == BAD)
    assert last < max(at for name, at in found.seen.marks if name == GOOD) < after
