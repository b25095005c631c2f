"""What checks find, and that a stream is found out however it is cut."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.access import AccessPolicy, CachePolicy, SafetyPolicy, SafetyRule
from engine.gateway.access.problems import access_problems
from engine.gateway.access.safety.answer import data_of, json_of, places_in
from engine.gateway.access.safety.hooks import Hooks
from engine.gateway.access.safety.patterns import PIECE_CHARS, find_pii, masked, merged
from engine.gateway.access.safety.review import CheckCounts, Review
from engine.gateway.access.safety.streaming import StreamReview
from state.config import parse_config
from state.words import ConfigError


def kinds_in(text: str) -> list[str]:
    return [name for _, name in merged(list(find_pii((), text)))]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("ana.lee+x@mail.example.co.uk!", ["email"]),
        ("call +49 151 2345 6789 or (030) 1234-5678", ["phone", "phone"]),
        ("4111 1111 1111 1111", ["card"]),
        ("4111111111111112 is no card", []),
        ("GB82 WEST 1234 5698 7654 32 is one", ["iban"]),
        ("GB83 WEST 1234 5698 7654 32 is none", []),
        ("078-05-1120", ["ssn"]),
        ("at 192.168.0.1, not 1.2.3 nor 999.1.1.1", ["ipv4"]),
        ("version 3.11.7 of 2026-11-25, 1,000,000 rows, f(x) = 3.14159", []),
        ("a@b and @home", []),
    ],
)
def test_personal_data_is_found_in_its_usual_spellings_and_told_from_look_alikes(text: str, kinds: list[str]) -> None:
    assert kinds_in(text) == kinds


def test_a_long_text_is_searched_by_the_piece_and_nothing_is_lost_between_two() -> None:
    for shift in range(0, 30, 3):
        text = "x " * ((PIECE_CHARS - shift) // 2) + "ana@example.org " + "y " * PIECE_CHARS + "ben@example.org"
        assert [text[a:b] for (a, b), _ in find_pii(("email",), text)] == ["ana@example.org", "ben@example.org"]


def review_of(*rules: SafetyRule, window: int) -> Review:
    return Review(SafetyPolicy(rules, window), Hooks(), CheckCounts(), "chat", "production", "r1", "stable", "")


def texts_in(stream: bytes) -> str:
    events = [json_of(data_of(event)) for event in stream.split(b"\n\n")]
    return "".join(place.text for event in events for place in places_in(event))


WORDS = st.lists(
    st.sampled_from(["hello", "ana@example.org", "at", "x", "s3cret-12345", "é", "10.0.0.1", "\n"]), max_size=12
)


@settings(deadline=None, max_examples=60)
@given(WORDS, st.integers(1, 9), st.integers(5, 200))
def test_a_redacted_stream_says_what_the_redacted_whole_would_say(words: list[str], piece: int, cut: int) -> None:
    text = " ".join(words)
    pii = SafetyRule("pii", "pii", "answer", "redact")
    secrets = SafetyRule("secrets", "regex", "answer", "redact", patterns=(r"s3cret-\d+",))
    pieces = [text[i : i + piece] for i in range(0, len(text), piece)]
    events = "".join(f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': p}}]})}\n\n" for p in pieces)
    wire = events.encode() + b": a comment\n\ndata: [DONE]\n\n"

    async def both() -> tuple[bytes, list[str]]:
        stream = StreamReview(review_of(pii, secrets, window=24))
        out = [await stream.feed(wire[i : i + cut]) for i in range(0, len(wire), cut)]
        whole = await review_of(pii, secrets, window=24).texts("answer", [text])
        return b"".join((*out, await stream.finish())), whole

    out, whole = asyncio.run(both())
    assert texts_in(out) == whole[0]
    assert out.endswith(b": a comment\n\ndata: [DONE]\n\n")
    assert out.count(b"data: {") == len(pieces), "an event stays an event, if only an empty one"


def test_two_choices_of_one_stream_are_two_texts() -> None:
    wire = b""
    for left, right in (("ana@ex", "one"), ("ample.org", " two"), (" end", " ben@example.org")):
        choices = [{"index": 0, "text": left}, {"index": 1, "text": right}]
        wire += f"data: {json.dumps({'choices': choices})}\n\n".encode()

    async def run() -> bytes:
        stream = StreamReview(review_of(SafetyRule("pii", "pii", "answer", "redact"), window=30))
        return await stream.feed(wire) + await stream.finish()

    events = [json.loads(data_of(e)) for e in asyncio.run(run()).split(b"\n\n") if e]
    said = ["".join(e["choices"][i]["text"] for e in events) for i in (0, 1)]
    assert said == ["[email] end", "one two [email]"]


def test_what_overlaps_is_masked_once() -> None:
    assert masked("abcdef", merged([((1, 3), "a"), ((2, 5), "b")])) == "a[a]f"


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        (AccessPolicy(CachePolicy(0.0)), "ttl_s"),
        (AccessPolicy(None, SafetyPolicy((SafetyRule("a", "regex", "both", "block", ("(",)),))), "regular expression"),
        (AccessPolicy(None, SafetyPolicy((SafetyRule("a", "magic", "both", "block"),))), "magic"),
        (AccessPolicy(None, SafetyPolicy((SafetyRule("a", "pii", "both", "block", ("dna",)),))), "dna"),
        (AccessPolicy(None, SafetyPolicy((SafetyRule("a", "http", "both", "block", url="ftp://x"),))), "ftp"),
        (AccessPolicy(None, SafetyPolicy((SafetyRule("a", "command", "both", "block"),))), "command"),
        (AccessPolicy(None, SafetyPolicy((SafetyRule("a", "max_chars", "both", "redact", max_chars=1),))), "length"),
        (AccessPolicy(None, SafetyPolicy((SafetyRule("a", "pii", "nose", "block"),))), "nose"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_with_the_reason(policy: AccessPolicy, what: str) -> None:
    assert what in " ".join(access_problems(policy))


CONFIG = """
[service.chat.cache]
ttl = "5m"
[service.chat.safety]
window_chars = 64
[service.chat.safety.rule.no-secrets]
patterns = ["s3cret-[0-9]+"]
[service.chat.safety.rule.pii]
pii = ["email", "card"]
action = "redact"
on = "answer"
[service.chat.safety.rule.polite]
url = "http://127.0.0.1:9000/check"
on_failure = "open"
"""


def test_the_files_tables_become_the_routes_policy() -> None:
    access = parse_config(CONFIG, Path("airboss.toml")).service["chat"].access_for_table()
    assert access is not None
    assert access["cache"] == {"ttl_s": 300.0, "is_always": False, "is_shared": False, "max_answer_bytes": 262144}
    rules = access["safety"]["rules"]
    assert [(r["name"], r["kind"], r["action"]) for r in rules] == [
        ("no-secrets", "regex", "block"), ("pii", "pii", "redact"), ("polite", "http", "block")
    ]  # fmt: skip
    assert rules[1]["patterns"] == ["email", "card"] and rules[2]["is_fail_open"] is True


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[service.c.safety.rule.r]\npatterns = ['(']", "regular expression"),
        ("[service.c.safety.rule.r]\npatterns = ['x']\nmax_chars = 3", "exactly one"),
        ("[service.c.safety.rule.r]\nurl = 'ftp://x'", "http"),
        ("[gateway]\ntls_cert = 'c.pem'", "tls_key"),
        ("[gateway.auth]\nmode = 'jwt'", "needs"),
        ("[gateway.auth.jwt]\nalgorithms = ['none']\nsecret = 'env:X'", "algorithms"),
        ("[gateway.auth.jwt]\nalgorithms = ['HS256']\npublic_key = 'k.pem'", "anyone sign"),
        ("[gateway.auth.jwt]\nalgorithms = ['RS256', 'HS256']\njwks = 'k.json'", "anyone sign"),
        ("[gateway.auth.jwt]\nalgorithms = ['HS256']\nsecret = 'hunter2'", "secret"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused_with_file_and_line(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as error:
        parse_config(text, Path("airboss.toml"))
    assert "airboss.toml:" in str(error.value)
