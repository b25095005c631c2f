"""How far two answers lie apart: what counts as their text, and that the distance behaves like one."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from engine.gateway.routing.compare import SAMPLE_BYTES, Sample, text_distance, text_of

WORDS = st.lists(st.sampled_from(["to", "be", "or", "not"]), max_size=12).map(" ".join)


def whole(text: str) -> bytes:
    return json.dumps({"choices": [{"text": text}]}).encode()


def test_the_text_is_found_in_every_shape_an_answer_has() -> None:
    chat = {"choices": [{"message": {"role": "assistant", "content": "to be"}}]}
    assert text_of(json.dumps(chat).encode()) == "to be"
    assert text_of(whole("to be")) == "to be"
    assert text_of(b'{"text": "to be", "tokens_generated": 2}') == "to be"
    deltas = [{"choices": [{"delta": d}]} for d in ({"role": "assistant"}, {"content": "to "}, {"content": "be"})]
    events = b"".join(b"data: " + json.dumps(d).encode() + b"\n\n" for d in deltas)
    assert text_of(events + b"data: [DONE]\n\n") == "to be"
    assert text_of(events + b'data: {"choices": [{"delta": {"cont') == "to be"


def test_what_shows_no_text_has_no_distance() -> None:
    for body in (
        b"",
        b"not json",
        b"[1]",
        b'{"choices": []}',
        b'{"choices": [7]}',
        b'{"data": [{"embedding": [0.1]}]}',
    ):
        assert text_of(body) is None
        assert text_distance(body, whole("to be")) is None


@given(WORDS, WORDS)
def test_a_distance_is_0_for_the_same_text_within_0_and_1_and_at_most_1_for_none_in_common(a: str, b: str) -> None:
    assert text_distance(whole(a), whole(a)) == 0.0
    found = text_distance(whole(a), whole(b))
    assert found is not None
    assert 0.0 <= found <= 1.0
    assert a.split() == b.split() or found > 0.0


def test_only_the_beginning_of_a_long_answer_is_kept_and_its_length_is_whole() -> None:
    sample = Sample()
    for _ in range(5):
        sample.add(b"x" * 20_000)
    assert (sample.length, len(sample.head)) == (100_000, SAMPLE_BYTES)
