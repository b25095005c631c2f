"""Personal data is found by class, replaced and counted; what only looks like it stays."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pipelines.stages.redaction import RULES, luhn, redact, remaining

REAL = [
    ("email", "write to bob.smith+x@example.co.uk today"),
    ("phone", "call +44 20 7946 0958 now"),
    ("phone", "call (555) 123-4567 now"),
    ("phone", "call 13812345678 now"),
    ("card", "pay with 4111 1111 1111 1111 please"),
    ("card", "pay with 5500-0000-0000-0004 please"),
    ("ipv4", "from 10.20.30.40 again"),
    ("ipv6", "from 2001:db8:85a3::8a2e:370:7334 again"),
    ("api_key", "key sk-proj-abcdefghijklmnopqrstuvwx end"),
    ("api_key", "key AKIAIOSFODNN7EXAMPLE end"),
    ("api_key", "key ghp_abcdefghijklmnopqrstuvwxyz0123456789 end"),
    ("api_key", "at https://me:hunter22@host.example/x"),
    ("api_key", "password=correcthorsebattery end"),
    ("iban", "to GB82 WEST 1234 5698 7654 32 soon"),
    ("citizen_id", "id 11010519491231002X here"),
    ("social_security", "ssn 078-05-1120 here"),
    ("private_key", "-----BEGIN RSA PRIVATE KEY-----\nMIIEow==\n-----END RSA PRIVATE KEY-----"),
]


@pytest.mark.parametrize(("kind", "text"), REAL)
def test_each_class_is_found_replaced_and_counted(kind: str, text: str) -> None:
    found = redact(text)
    assert found.counts == {kind: 1}
    assert f"<{kind.upper()}>" in found.text


@pytest.mark.parametrize(
    "text",
    [
        "pi is 3.141592653589793 and 0.1000000000000000055511151231257827",
        "on 2026-11-21 at 12:30:45, 1234567890 bytes",
        "card 4111 1111 1111 1112 fails its checksum",
        "x[a::2], x[::-1], std::string, 127.0.0.1, ::1, 0.0.0.0, version 1.2.3",
        "the form '+000000120' and 999.1.1.1 and 110105194912310021",
        "@decorator and name@ and user@localhost",
        "GB82 WEST 1234 5698 7654 33 has a wrong check digit",
    ],
)
def test_what_only_looks_personal_stays(text: str) -> None:
    assert redact(text).text == text


@given(st.lists(st.sampled_from([text for _, text in REAL]) | st.text(max_size=40), max_size=8).map(" ".join))
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redact(text).text
    assert redact(once).text == once
    assert remaining(once) == 0


def test_no_mark_matches_a_rule() -> None:
    marks = " ".join(rule.mark for rule in RULES)
    assert redact(marks).text == marks


@given(st.lists(st.integers(0, 9), min_size=12, max_size=18))
def test_luhn_accepts_exactly_one_check_digit(digits: list[int]) -> None:
    body = "".join(map(str, digits))
    accepted = [digit for digit in "0123456789" if luhn(body + digit)]
    assert len(accepted) == 1 or set(body) == set(accepted) or len(set(body)) == 1


@pytest.mark.parametrize(
    "unit", ["1:2:", "a@", "1 ", "1-", "A", "eyJ", "AB12 ", "a.", "1.1.", "://a:", "-----BEGIN PRIVATE KEY-----"]
)
def test_hostile_text_takes_no_longer_than_it_should(unit: str) -> None:
    began = time.process_time()
    redact(unit * (100_000 // len(unit)))
    assert time.process_time() - began < 2.0
