"""From a checked body to what the engine shall do: prompts as tokens, fitted into the model's context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.serving.front.errors import ApiError, invalid
from engine.serving.front.schemas import MAX_GENERATIONS, Body, ChatBody, CompletionBody, GenerateBody, parse
from engine.serving.loop import ModelCard
from engine.serving.request import SamplingParams

Names = frozenset[str]
"""What the served model may be called in a body."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt as tokens; `text` is what `echo` shows of it."""

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One generation of a call. Choice `index` of the answer, before the best are chosen among `best_of`."""

    index: int
    tokens: tuple[int, ...]
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request: generations whose tokens and parameters fit the model.

    The samples of prompt p are those from p * best_of to (p + 1) * best_of.
    """

    prompts: tuple[Prompt, ...]
    samples: tuple[Sample, ...]
    n: int = 1
    best_of: int = 1
    user: str = ""
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    logprobs: int | None = None
    """What the caller wants to see; the samples may carry them for `best_of` alone."""

    @property
    def prompt_tokens(self) -> int:
        """Each prompt once, however many answers it gets."""
        return sum(len(prompt.tokens) for prompt in self.prompts)


def completion_call(value: object, card: ModelCard, served: Names) -> Call:
    """The call that a /v1/completions body makes. Raises ApiError."""
    body = parse(CompletionBody, value)
    _check_model(body, served)
    best_of = body.best_of or body.n
    if best_of < body.n:
        raise invalid(
            f"best_of is {best_of}, but n asks for {body.n} of them: raise best_of, or leave it out", "best_of"
        )
    if best_of > body.n and body.stream:
        raise invalid("best_of cannot be streamed: which answer is best is known at the end", "best_of")
    if body.echo and body.logprobs is not None:
        raise invalid("echo with logprobs is not supported here: the prompt's are not computed; leave one out", "echo",
                      code="unsupported_parameter")  # fmt: skip
    prompts = [_prompt(part, card) for part in _parts(body.prompt)]
    return _call(body, prompts, body.max_tokens, 16, card, best_of=best_of, echo=body.echo, logprobs=body.logprobs)


def chat_call(value: object, card: ModelCard, served: Names) -> Call:
    """The call that a /v1/chat/completions body makes: the model's own chat template makes the prompt."""
    body = parse(ChatBody, value)
    _check_model(body, served)
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
    roles = {"developer": "system"}
    turns = [{"role": roles.get(m.role, m.role), "content": _utf8(m.text(), "messages")} for m in body.messages]
    try:
        tokens = card.tokenizer.chat_tokens(turns)
    except ValueError as error:
        raise invalid(str(error), "messages") from error
    wanted = body.max_completion_tokens or body.max_tokens
    logprobs = body.top_logprobs if body.logprobs else None
    return _call(body, [Prompt(tuple(tokens), "")], wanted, card.context, card, best_of=body.n, logprobs=logprobs)


def generate_call(value: object, card: ModelCard, served: Names) -> Call:
    """The call that a /generate body makes. One answer."""
    body = parse(GenerateBody, value)
    _check_model(body, served)
    if body.n > 1:
        raise invalid("/generate gives one answer; ask /v1/completions for several", "n")
    return _call(body, [_prompt(body.prompt, card)], None, body.max_tokens or 100, card, best_of=1, echo=body.echo)


def _check_model(body: Body, served: Names) -> None:
    if body.model and body.model not in served:
        names = ", ".join(sorted(served))
        raise invalid(f"there is no model {body.model!r} here; this server has {names}", "model",
                      code="model_not_found", status=404)  # fmt: skip


def _parts(prompt: str | list[int] | list[str] | list[list[int]]) -> Sequence[str | list[int]]:
    """The prompts one by one."""
    if isinstance(prompt, str):
        return [prompt]
    numbers = [part for part in prompt if isinstance(part, int)]
    if len(numbers) == len(prompt):
        return [numbers]
    return [part for part in prompt if not isinstance(part, int)]


def _prompt(part: str | list[int], card: ModelCard) -> Prompt:
    if isinstance(part, str):
        return Prompt(tuple(card.tokenizer.encode(_utf8(part, "prompt"))), part)
    size = card.tokenizer.vocab_size
    if any(not 0 <= token < size for token in part):
        raise invalid(f"token ids must be from 0 to {size - 1}", "prompt")
    return Prompt(tuple(part), card.tokenizer.decode(part))


def _utf8(text: str, param: str) -> str:
    """The text, if it is one: JSON can hold half a surrogate pair, which no encoding of text has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"character {error.start} is half of a surrogate pair, which is no text", param) from error
    return text


def _call(
    body: Body,
    prompts: list[Prompt],
    wanted: int | None,
    default: int,
    card: ModelCard,
    *,
    best_of: int,
    echo: bool = False,
    logprobs: int | None = None,
) -> Call:
    """Fit the request into the model's context. `wanted` must fit as it is; `default` is cut to the room there is."""
    if len(prompts) * best_of > MAX_GENERATIONS:
        raise invalid(
            f"{len(prompts)} prompts with {best_of} answers each are {len(prompts) * best_of} generations; "
            f"one request may start {MAX_GENERATIONS}: send several requests, they are batched together",
            "prompt",
        )
    prompts = [_truncated(prompt, body.truncate_prompt_tokens, wanted, card) for prompt in prompts]
    params = _params(body, card, logprobs)
    if params.logprobs is None and best_of > body.n:
        params = replace(params, logprobs=0)
    samples: list[Sample] = []
    for prompt in prompts:
        room = _room(len(prompt.tokens), wanted, card.context)
        for _ in range(best_of):
            index = len(samples)
            seed = None if body.seed is None else body.seed + index
            own = replace(params, max_tokens=wanted or min(default, room), seed=seed)
            samples.append(Sample(index, prompt.tokens, own))
    return Call(
        prompts=tuple(prompts),
        samples=tuple(samples),
        n=body.n,
        best_of=best_of,
        user=body.user,
        stream=body.stream,
        include_usage=body.stream_options.include_usage,
        echo=echo,
        logprobs=logprobs,
    )


def _params(body: Body, card: ModelCard, logprobs: int | None) -> SamplingParams:
    """How tokens are chosen. `max_tokens` and `seed` are each sample's own."""
    size = card.tokenizer.vocab_size
    if any(not 0 <= token < size for token in body.stop_token_ids):
        raise invalid(f"token ids must be from 0 to {size - 1}", "stop_token_ids")
    return SamplingParams(
        max_tokens=1,
        temperature=body.temperature,
        top_k=min(max(0, body.top_k), size),
        top_p=body.top_p,
        min_p=body.min_p,
        stop=tuple(body.stop),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=_bias(body.logit_bias, size),
        logprobs=None if logprobs is None else min(logprobs, size),
        stop_token_ids=frozenset(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
    )


def _bias(given: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for name, value in given.items():
        if not name.isascii() or not name.isdigit() or len(name) > 9 or int(name) >= vocab_size:
            raise invalid(f"{name[:20]!r} is no token id from 0 to {vocab_size - 1}", "logit_bias")
        bias[int(name)] = value
    return bias


def _truncated(prompt: Prompt, keep: int | None, wanted: int | None, card: ModelCard) -> Prompt:
    """The prompt's end, when the caller asked for that."""
    if keep is None:
        return prompt
    if keep < 0:
        keep = max(1, card.context - (wanted or 1))
    tokens = prompt.tokens[max(0, len(prompt.tokens) - keep) :]
    return prompt if len(tokens) == len(prompt.tokens) else Prompt(tokens, card.tokenizer.decode(tokens))


def _room(prompt: int, wanted: int | None, context: int) -> int:
    """Tokens that fit behind the prompt. Raises ApiError when there are too few."""
    if not prompt:
        raise invalid("the prompt is empty; send at least one character", "prompt")
    room = context - prompt
    if room < (wanted or 1):
        raise _too_long(prompt, wanted, context)
    return room


def _too_long(prompt: int, wanted: int | None, context: int) -> ApiError:
    """OpenAI's answer to what does not fit; nothing is cut off behind the caller's back."""
    asked = f" and max_tokens asks for {wanted} more" if wanted else ", which leaves no room for an answer"
    if wanted and prompt < context:
        way_out = f"ask for at most {context - prompt}"
    else:
        way_out = "send a shorter prompt, or truncate_prompt_tokens to keep its end"
    message = f"the model's context is {context} tokens; the prompt has {prompt}{asked}: {way_out}"
    return invalid(message, "max_tokens" if wanted and prompt < context else "prompt", code="context_length_exceeded")
