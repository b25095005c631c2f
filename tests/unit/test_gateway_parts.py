"""The gateway's small pure parts: ids, health, counts, what is read in a stream, segments."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ports import Backend, Route
from engine.gateway.answers import header_line, upstream_lines
from engine.gateway.counts import Counts, Result, RowKey
from engine.gateway.feedback import read_feedback
from engine.gateway.front import split_path
from engine.gateway.health import Health, Ping, after_break, after_ping, after_silence
from engine.gateway.ids import decode_request_id, new_request_id
from engine.gateway.ledger import Rotated, Segments, Spool
from engine.gateway.stream import StreamWatch, tokens_of
from engine.gateway.switch import KeptTable
from engine.gateway.table import RoutingTable
from state.words import COUNTS_AND_BAD, BadClass

ROUTE = Route("chat", "production", "local", "", (Backend("stable", "chat-1", 100, (("s", "unix:/s"),)),), 300.0, 10.0)


def table_at(revision: int) -> RoutingTable:
    return RoutingTable(revision, 0.0, "production", (ROUTE,))


@given(
    st.floats(1, 4e9),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", fullmatch=True) | st.just(""),
    st.integers(0, 2**50),
)
def test_a_request_id_gives_back_time_release_and_revision(now: float, release: str, revision: int) -> None:
    made = new_request_id(now, release, revision)
    read = decode_request_id(str(made))
    assert read == made
    assert read.release_id == release
    assert read.revision == revision
    assert abs(read.at - now) < 0.002


@given(st.floats(1, 4e9), st.floats(0.01, 1e6))
def test_later_ids_sort_later(now: float, later: float) -> None:
    assert str(new_request_id(now, "z-9", 9)) < str(new_request_id(now + later, "a-1", 1))


@pytest.mark.parametrize(
    "text", ["", "r1-0", "r2-0mwqyv6r0-9-69432fdc50-chat-1", "r1-0mwqyv6r0-9-69432fdc50-chat\n", "x" * 999]
)
def test_what_is_no_request_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a request id"):
        decode_request_id(text)


UP = Health(is_healthy=True, since=1.0, is_proven=True)


def test_refused_ejects_at_once_and_two_misses_do() -> None:
    assert not after_ping(UP, Ping.REFUSED, "gone", 2.0, True).is_healthy
    once = after_ping(UP, Ping.NOT_READY, "503", 2.0, False)
    assert once.is_healthy
    twice = after_ping(once, Ping.TIMEOUT, "slow", 3.0, False)
    assert (twice.is_healthy, twice.since, twice.last_error) == (False, 3.0, "slow")
    assert after_ping(after_ping(once, Ping.READY, "", 3.0, False), Ping.NOT_READY, "", 4.0, False).is_healthy


def test_a_broken_request_ejects_and_a_good_ping_brings_back() -> None:
    out = after_break(UP, "reset", 5.0)
    assert not out.is_healthy
    assert out.last_error == "reset"
    back = after_ping(out, Ping.READY, "", 6.0, False)
    assert back.is_healthy
    assert back.since == 6.0
    assert back.misses == 0


def test_a_replica_too_busy_to_answer_a_ping_but_answering_requests_stays() -> None:
    health = UP
    for _ in range(10):
        health = after_ping(health, Ping.TIMEOUT, "slow", 2.0, answers_requests=True)
    assert health.is_healthy


def test_a_new_replica_is_trusted_when_silent_and_not_when_it_refused() -> None:
    new = Health.unproven(0.0)
    assert not new.is_healthy
    assert after_silence(new, 1.0).is_healthy
    assert not after_silence(after_ping(new, Ping.REFUSED, "gone", 0.5, False), 1.0).is_healthy


@given(st.lists(st.tuples(st.sampled_from(list(Ping)), st.booleans()), max_size=30))
def test_a_replica_is_up_exactly_when_its_last_word_was_good_and_at_most_one_miss_followed(
    pings: list[tuple[Ping, bool]],
) -> None:
    health, misses, was_refused = UP, 0, False
    for now, (ping, answers) in enumerate(pings):
        health = after_ping(health, ping, "e", float(now), answers)
        if ping is Ping.READY:
            misses, was_refused = 0, False
        elif not (ping is Ping.TIMEOUT and answers):
            misses, was_refused = misses + 1, was_refused or ping is Ping.REFUSED
        assert health.is_healthy == (misses < 2 and not was_refused)


RESULTS = st.builds(
    Result,
    st.sampled_from(list(BadClass)),
    st.floats(0, 100),
    st.none() | st.floats(0, 100),
    st.integers(0, 50),
    st.integers(0, 50),
)


@given(st.lists(st.lists(RESULTS, max_size=20), min_size=1, max_size=6))
def test_snapshots_add_up_to_what_was_recorded_and_hold_only_their_own(intervals: list[list[Result]]) -> None:
    counts = Counts("w0", 0.0)
    counts.serve(table_at(3))
    key = RowKey.of(table_at(3), ROUTE, ROUTE.backends[0])
    for number, results in enumerate(intervals, start=1):
        for result in results:
            counts.record(key, result, ROUTE.slow_ms)
        snapshot: Any = json.loads(counts.close_interval(float(number)))
        (row,) = snapshot["rows"]
        counted = [r for r in results if COUNTS_AND_BAD[r.outcome][0]]
        assert row["requests"] == len(counted) == row["latency"]["buckets"]["+Inf"]
        assert row["errors"] == sum(COUNTS_AND_BAD[r.outcome][1] for r in results)
        assert row["slow"] == sum(r.duration_s > 0.3 for r in counted)
        assert sum(row["codes"].values()) == len(results)
        assert row["latency"]["buckets"]["1"] == sum(r.duration_s <= 1 for r in counted)
        assert (snapshot["t0"], snapshot["t1"]) == (number - 1, number)
    (total,) = counts.totals.values()
    assert sum(total.codes.values()) == sum(map(len, intervals))
    assert [s["seq"] for s in json.loads(counts.after(1))["snapshots"]] == list(range(2, len(intervals) + 1))


def test_every_backend_has_a_row_of_zeros_and_a_late_one_counts_for_its_own_revision() -> None:
    counts = Counts("w0", 0.0)
    old = RowKey.of(table_at(1), ROUTE, ROUTE.backends[0])
    counts.serve(table_at(1))
    counts.serve(table_at(2))
    counts.close_interval(1.0)
    counts.record(old, Result(BadClass.OK, 0.1, 0.05, 1, 1), 300.0)
    rows = json.loads(counts.close_interval(2.0))["rows"]
    assert sorted((r["table_revision"], r["requests"]) for r in rows) == [(1, 1), (2, 0)]


def test_a_clock_set_back_makes_no_negative_interval() -> None:
    counts = Counts("w0", 100.0)
    snapshot = json.loads(counts.close_interval(40.0))
    assert snapshot["t0"] == snapshot["t1"] == 100.0


STREAM = b'data: {"choices":[{"text":"a data: [DONE] b"}]}\n\ndata: {"choices":[{"text":"c"}]}\n\n'


@given(st.lists(st.integers(0, 400), max_size=8), st.booleans(), st.booleans())
def test_a_stream_reads_the_same_however_the_network_cut_it(cuts: list[int], has_usage: bool, is_done: bool) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens": 7, "completion_tokens": 123}}\n\n' if has_usage else b""
    whole = STREAM + usage + (b"data: [DONE]\n\n" if is_done else b"")
    edges = sorted({0, len(whole), *(c for c in cuts if c < len(whole))})
    watch = StreamWatch()
    for start, end in pairwise(edges):
        watch.feed(whole[start:end])
    assert watch.is_done == is_done
    assert not watch.has_error
    assert (watch.tokens_in, watch.tokens_out) == ((7, 123) if has_usage else (0, 2))


def test_an_error_event_is_seen_and_generated_text_is_not_taken_for_one() -> None:
    watch = StreamWatch()
    watch.feed(b"data: " + json.dumps({"text": '\ndata: {"error": 1}\n"completion_tokens": 9'}).encode() + b"\n\n")
    assert not watch.has_error
    assert watch.tokens_out == 1
    watch.feed(b'data: {"error": {"message": "cuda"}}\n\n')
    assert watch.has_error
    assert tokens_of(b'{"text":"x","tokens_generated": 12}') == (0, 12)


def test_headers_named_by_connection_do_not_pass() -> None:
    sent = {"Connection": "close, X-Secret", "X-Secret": "1", "Te": "trailers", "X-Forwarded-For": "9.9.9.9", "A": "b"}
    got = upstream_lines([(name.encode(), value.encode()) for name, value in sent.items()], "10.0.0.1")
    assert got == b"A: b\r\nX-Forwarded-For: 9.9.9.9, 10.0.0.1\r\n"


def test_no_value_ends_its_header_line_early() -> None:
    assert (
        header_line("X-Airboss-Tenant", "a\r\nX-Secret: 1\n\u2028é") == "X-Airboss-Tenant: aX-Secret: 1é\r\n".encode()
    )


def test_withheld_headers_stay_here() -> None:
    assert upstream_lines([(b"AUTHORIZATION", b"x"), (b"A", b"b")], "", frozenset({b"authorization"})) == b"A: b\r\n"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/v1/completions", ("", "", "/v1/completions")),
        ("/production/chat/v1/completions", ("production", "chat", "/v1/completions")),
        ("/production/chat/generate", ("production", "chat", "/generate")),
        ("/v1/x/v1/y", ("", "", "/v1/x/v1/y")),
        ("/production/chat/admin/handshake", ("", "", "/production/chat/admin/handshake")),
    ],
)
def test_paths_name_their_service_or_do_not(path: str, parts: tuple[str, str, str]) -> None:
    assert split_path(path) == parts


def test_feedback_without_a_known_value_is_refused() -> None:
    made = str(new_request_id(1e9, "chat-1", 3))
    assert read_feedback(json.dumps({"request_id": made, "value": "down"}).encode()).request_id.release_id == "chat-1"
    with pytest.raises(ValueError, match="value"):
        read_feedback(json.dumps({"request_id": made, "value": "<script>"}).encode())


def test_segments_turn_over_and_the_oldest_go(tmp_path: Path) -> None:
    segments = Segments(tmp_path, "w0", max_bytes=100, keep=2)
    for number in range(10):
        segments.append(json.dumps({"n": number, "pad": "x" * 40}) + "\n")
    left = sorted(tmp_path.iterdir(), key=lambda p: int(p.stem.split("-")[1]))
    assert len(left) == 2
    assert json.loads(left[-1].read_text().splitlines()[-1])["n"] == 9


def test_a_rotated_file_keeps_the_one_before(tmp_path: Path) -> None:
    rotated = Rotated(tmp_path / "counts-w0.jsonl", max_bytes=50)
    for number in range(5):
        rotated.append(f'{{"n": {number}, "pad": "{"x" * 20}"}}\n')
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_takes_no_lines_costs_lines_and_says_how_many(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as thread:
        spool = Spool(Segments(tmp_path / "nowhere", "w0", max_bytes=100, keep=2), thread)
        for number in range(3):
            spool.add({"n": number})
        writing = spool.flush()
        assert writing is not None
        assert isinstance(writing.exception(), OSError)
        spool.add({"n": 4})
        (tmp_path / "nowhere").mkdir()
        second = spool.flush()
        assert second is not None
        second.result()
    assert spool.dropped == 3
    assert (tmp_path / "nowhere" / "w0-1.jsonl").read_text() == '{"n":4}\n'


def test_an_older_table_never_replaces_the_kept_one_and_a_torn_file_is_replaced(tmp_path: Path) -> None:
    kept = KeptTable(tmp_path)
    assert kept.load() is None
    kept.keep(table_at(5))
    kept.keep(table_at(4))
    assert kept.load() == table_at(5)
    kept.path.write_text('{"revi')
    kept.keep(table_at(3))
    assert kept.load() == table_at(3)
