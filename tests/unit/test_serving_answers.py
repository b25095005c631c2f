"""From the engine's news to an answer: whole whatever the order of things, and with the log probabilities of its text."""

from __future__ import annotations

import asyncio

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers

from engine.serving.bpe import BpeTokenizer
from engine.serving.front.calls import Call, Prompt, Sample
from engine.serving.front.errors import ApiError, ClientGone, deadline_passed
from engine.serving.front.formats import Result, best
from engine.serving.front.logprobs import chat_logprobs, completion_logprobs
from engine.serving.front.quotas import QueueClass
from engine.serving.front.ticket import Ticket
from engine.serving.request import ErrorKind, FinishReason, SamplingParams, TokenLogprobs, Update


def spaced() -> BpeTokenizer:
    """A tokenizer that drops the space before a text's first word, and has bytes for what it does not know."""
    words = ["</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a"]
    model = tokenizers.Tokenizer(
        models.BPE({word: at for at, word in enumerate(words)}, [("▁", "a")], byte_fallback=True)
    )
    model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    model.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    model.add_special_tokens(["</s>"])
    return BpeTokenizer.from_files(model.to_str(), {"eos_token": "</s>"})


def ticket(*, generations: int = 1, stream: bool = False) -> Ticket:
    params = SamplingParams(max_tokens=4)
    samples = tuple(Sample(index, (1,), params) for index in range(generations))
    call = Call((Prompt((1,), "a"),), samples, n=generations, best_of=generations, stream=stream)
    return Ticket(10, call, "", QueueClass.INTERACTIVE, 0.0)


async def test_news_that_came_before_anybody_waited_is_not_lost() -> None:
    asked = ticket(generations=2)
    asked.put(Update(10, "ab", 2, FinishReason.STOP))
    asked.put(Update(11, "c", 1))
    asked.put(Update(11, "d", 2, FinishReason.LENGTH))
    first, second = await asked.pieces()
    assert (first.index, first.text, first.finish) == (0, "ab", FinishReason.STOP)
    assert (second.index, second.text, second.finish) == (1, "cd", FinishReason.LENGTH)
    assert asked.is_done and asked.completion_tokens == 4 and asked.unfinished == []


async def test_who_does_not_stream_is_woken_once_every_generation_has_ended() -> None:
    asked = ticket(generations=2)
    waiting = asyncio.create_task(asked.pieces())
    asked.put(Update(10, "ab", 2, FinishReason.STOP))
    await asyncio.sleep(0)
    assert not waiting.done() and asked.unfinished == [11]
    asked.put(Update(11, "cd", 2, FinishReason.STOP))
    assert len(await waiting) == 2


@pytest.mark.parametrize("end", [ClientGone(), deadline_passed(1.0), Update(10, "", 0, FinishReason.ERROR, ErrorKind.OUT_OF_MEMORY)])  # fmt: skip
async def test_one_bad_end_ends_the_whole_request(end: ApiError | ClientGone | Update) -> None:
    asked = ticket(generations=2, stream=True)
    asked.put(Update(11, "c", 1))
    asked.put(end)
    with pytest.raises((ApiError, ClientGone)):
        await asked.pieces()
    assert 11 in asked.unfinished


async def test_a_deadline_that_passes_after_the_end_does_not_spoil_the_answer() -> None:
    asked = ticket()
    asked.put(Update(10, "ab", 2, FinishReason.STOP))
    asked.put(deadline_passed(1.0))
    assert [piece.text for piece in await asked.pieces()] == ["ab"]


def test_the_best_are_chosen_within_each_prompt_and_numbered_anew() -> None:
    prompts = (Prompt((1,), "a"), Prompt((2,), "b"))
    samples = tuple(Sample(index, (1,), SamplingParams(max_tokens=1)) for index in range(6))
    call = Call(prompts, samples, n=1, best_of=3)
    scores = (-3.0, -1.0, -2.0, -0.5, -4.0, -0.6)
    results = [Result(at, str(at), FinishReason.STOP, [TokenLogprobs(1, score)]) for at, score in enumerate(scores)]
    assert [(result.index, result.text) for result in best(results, call)] == [(0, "1"), (1, "3")]


def test_the_tokens_texts_make_up_the_answer_and_offsets_follow() -> None:
    tokenizer = spaced()
    a, b = tokenizer.encode("a")[0], tokenizer.encode("ab")[1]
    news = [
        TokenLogprobs(a, -0.1, ((a, -0.1), (b, -2.5))),
        TokenLogprobs(b, -2.0, ((a, -0.3),)),
        TokenLogprobs(a, -1.0),
    ]
    shown, end = completion_logprobs(news, tokenizer, offset=4)
    assert "".join(shown["tokens"]) == " ab a"
    assert (shown["text_offset"], end) == ([4, 6, 7], 9)
    assert shown["top_logprobs"][1] == {" a": -0.3, "b": -2.0}
    content = chat_logprobs(news, tokenizer)["content"]
    assert content[0]["bytes"] == list(b" a") and content[0]["top_logprobs"][1]["token"] == "b"


def test_a_part_of_a_character_has_no_bytes_to_show() -> None:
    tokenizer = spaced()
    half = tokenizer.encode("aé")[-1]
    (token,) = chat_logprobs([TokenLogprobs(half, -1.0)], tokenizer)["content"]
    assert (token["token"], token["bytes"]) == ("\ufffd", None)
