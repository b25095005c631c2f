"""Subword tokenizers: text in and out, characters split over tokens, chat templates as transformers renders them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from engine.serving.bpe import BpeTokenizer
from engine.serving.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You help.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "special": True}, "chat_template": CHATML}


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2, Llama 3, Qwen and SmolLM2 have it."""
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    model.train_from_iterator(["the quick brown fox, the lazy dog: the end"] * 4, trainer)
    return model


def sentencepiece_like() -> tokenizers.Tokenizer:
    """As Llama 2 has it: ▁ for spaces, bytes for what is unknown."""
    words = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz.,"]
    vocabulary = {word: index for index, word in enumerate(words)}
    merges = [("▁", "a"), ("b", "c"), ("▁", "t")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    model = tokenizers.Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True))
    model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    model.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    model.add_special_tokens(["<s>", "</s>"])
    return model


def loaded(model: tokenizers.Tokenizer, config: dict[str, Any] = CONFIG, **more: Any) -> BpeTokenizer:
    return BpeTokenizer.from_files(model.to_str(), config, **more)


BYTE_LEVEL, SENTENCEPIECE = (
    loaded(byte_level()),
    loaded(sentencepiece_like(), {"eos_token": "</s>", "bos_token": "<s>"}),
)


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(token) for token in ids), stream.flush()]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=150, deadline=None)
def test_text_comes_back_whole_and_streams_to_the_same(text: str) -> None:
    ids = BYTE_LEVEL.encode(text)
    assert BYTE_LEVEL.decode(ids) == text
    assert "".join(streamed(BYTE_LEVEL, ids)) == text


def test_a_character_over_several_tokens_is_shown_when_it_is_whole() -> None:
    ids = BYTE_LEVEL.encode("é€😀")
    assert len(ids) == 9
    assert [piece for piece in streamed(BYTE_LEVEL, ids) if piece] == ["é", "€", "😀"]
    ids = SENTENCEPIECE.encode("😀")[1:]
    assert streamed(SENTENCEPIECE, ids) == ["", "", "", "😀", ""]


def test_an_answer_that_ends_inside_a_character_shows_that_something_was_lost() -> None:
    ids = BYTE_LEVEL.encode("a€")
    assert streamed(BYTE_LEVEL, ids[:-1]) == ["a", "", "", "\ufffd"]


def test_bytes_that_never_become_text_do_not_hold_the_answer_up() -> None:
    broken = BYTE_LEVEL.encode("é")[:1] * 30
    shown = streamed(BYTE_LEVEL, broken)
    assert "".join(shown).count("\ufffd") == 30
    assert any(shown[:10])


def test_the_first_word_of_an_answer_keeps_its_space() -> None:
    ids = SENTENCEPIECE.encode("the abc. a bc")
    assert SENTENCEPIECE.decode(ids) == "the abc. a bc"
    assert "".join(streamed(SENTENCEPIECE, ids)) == " the abc. a bc"


def test_special_tokens_are_never_shown() -> None:
    start, end = (BYTE_LEVEL.encode(word)[0] for word in ("<|im_start|>", "<|im_end|>"))
    ids = [start, *BYTE_LEVEL.encode("fox"), end, *BYTE_LEVEL.encode(" dog")]
    assert "".join(streamed(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids) == "fox dog"


def test_what_ends_an_answer_is_the_tokenizers_eos_and_what_the_model_adds() -> None:
    end = BYTE_LEVEL.encode("<|im_end|>")[0]
    assert BYTE_LEVEL.eos_ids == {end}
    assert loaded(byte_level(), CONFIG, eos_ids=[7]).eos_ids == {7, end}
    assert BYTE_LEVEL.unknown_id == BYTE_LEVEL.encode("<|im_start|>")[0]


def test_half_a_surrogate_pair_becomes_the_replacement_character() -> None:
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode("a\ud83db")) == "a\ufffdb"
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode("\ud83d\ude00")) == "😀"


CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "the fox"}],
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "é\n{{ 7 }}"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "<c>"}],
]
AWKWARD = (
    "{{ bos_token }}{%- for m in messages %}\n    {%- if m.role == 'system' %}{% continue %}{% endif %}\n"
    "  {{- m | tojson }}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}"
    "{% if tools is none %}no tools{% endif %}{{ eos_token }}"
)


@pytest.mark.parametrize("template", [CHATML, AWKWARD])
@pytest.mark.parametrize("messages", CHATS)
def test_chats_become_the_tokens_that_transformers_makes_of_them(template: str, messages: list[dict[str, str]]) -> None:
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    expected = theirs.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert loaded(byte_level(), {**CONFIG, "chat_template": template}).chat_tokens(messages) == expected


def test_a_template_file_goes_before_the_config_and_a_named_default_is_found() -> None:
    messages = CHATS[0]
    named = {
        **CONFIG,
        "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}],
    }
    assert loaded(byte_level(), named).chat_tokens(messages) == BYTE_LEVEL.chat_tokens(messages)
    of_file = loaded(byte_level(), CONFIG, template="only {{ messages[0].content }}")
    assert of_file.decode(of_file.chat_tokens(messages)) == "only the fox"


def test_without_a_template_the_turns_are_lines() -> None:
    plain = loaded(byte_level(), {})
    assert plain.decode(plain.chat_tokens(CHATS[2])) == "a\nb\n<c>"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses this conversation: roles must alternate"),
        ("{{ messages[9].content }}", "refuses this conversation"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "refuses this conversation"),
        ("{{ messages[0].content + 1 }}", "cannot read this conversation"),
    ],
)
def test_a_template_that_refuses_or_misbehaves_is_a_sentence(template: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        loaded(byte_level(), {"chat_template": template}).chat_tokens(CHATS[0])


def test_files_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot read it"):
        BpeTokenizer.from_files(json.dumps({"model": {"type": "Magic"}}), {})
    with pytest.raises(ValueError, match="is not Jinja"):
        loaded(byte_level(), {"chat_template": "{% for %}"})
