"""What may be asked over HTTP: the bodies, their checks, and what they mean to the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.serving.front.errors import ApiError, invalid
from engine.serving.loop import ModelCard
from engine.serving.request import SamplingParams

StopString = Annotated[str, Field(min_length=1, max_length=256)]
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "response_format": ({"type": "text"},),
}
"""Options of OpenAI's API that this server lacks, and the values that ask for nothing. Others are refused."""


class _Body(BaseModel):
    """What all three endpoints share. Unknown fields that change no text (metadata, store, …) are let through."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=-1)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    seed: int | None = None
    stop: list[StopString] = Field(default_factory=list, max_length=4)
    stream: bool = False
    user: str = ""
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)


B = TypeVar("B", bound=_Body)


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False


class CompletionBody(_Body):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str]
    stream_options: StreamOptions = StreamOptions()


class Message(BaseModel):
    """One turn of a chat. Content is text, or a list of text parts."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]

    def text(self) -> str:
        """The turn's text. Raises ApiError when a part is no text."""
        if isinstance(self.content, str):
            return self.content
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in self.content):
            raise invalid("this model reads text only; send content of type 'text'", "messages")
        return "".join(part["text"] for part in self.content)


class ChatBody(_Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stream_options: StreamOptions = StreamOptions()


class GenerateBody(_Body):
    """POST /generate: the short form. `max_tokens` is at most; the answer says how many there were."""

    prompt: str
    max_tokens: int | None = Field(default=100, ge=1)
    temperature: float = Field(default=0.8, ge=0.0, le=2.0, allow_inf_nan=False)
    top_k: int = Field(default=200, ge=-1)


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request: tokens and parameters that fit the model."""

    tokens: tuple[int, ...]
    params: SamplingParams
    user: str
    stream: bool = False
    include_usage: bool = False


def completion_call(value: object, card: ModelCard, served: frozenset[str]) -> Call:
    """The call that a /v1/completions body makes. Raises ApiError."""
    body = _parse(CompletionBody, value)
    tokens = _prompt_tokens(body.prompt, card)
    return _call(body, tokens, body.max_tokens, 16, card, served, include_usage=body.stream_options.include_usage)


def chat_call(value: object, card: ModelCard, served: frozenset[str]) -> Call:
    """The call that a /v1/chat/completions body makes: the turns' texts, joined by newlines, are the prompt."""
    body = _parse(ChatBody, value)
    tokens = card.tokenizer.encode("\n".join(message.text() for message in body.messages))
    wanted = body.max_completion_tokens or body.max_tokens
    return _call(body, tokens, wanted, card.context, card, served, include_usage=body.stream_options.include_usage)


def generate_call(value: object, card: ModelCard, served: frozenset[str]) -> Call:
    """The call that a /generate body makes."""
    body = _parse(GenerateBody, value)
    return _call(body, card.tokenizer.encode(body.prompt), None, body.max_tokens or 100, card, served)


def _parse(kind: type[B], value: object) -> B:
    """The body as `kind`. A null is a field left out, as OpenAI's clients mean it. Raises ApiError."""
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object")
    given = {name: field for name, field in value.items() if field is not None}
    for name, neutral in _NEUTRAL.items():
        if name in given and given[name] not in neutral:
            raise invalid(f"{name} is not supported here; leave it out", name, code="unsupported_parameter")
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(str(part) for part in first["loc"] if _is_name(part))
        raise invalid(f"{param}: {first['msg']}", param) from error


def _is_name(part: int | str) -> bool:
    """Whether a part of a pydantic location is the caller's: an index or a field, not the branch of a union."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("str", "int"))


def _prompt_tokens(prompt: str | list[int] | list[str], card: ModelCard) -> list[int]:
    if isinstance(prompt, str):
        return card.tokenizer.encode(prompt)
    texts = [part for part in prompt if isinstance(part, str)]
    if texts:
        if len(texts) > 1:
            raise invalid("one prompt a request; send several requests, they are batched together", "prompt")
        return card.tokenizer.encode(texts[0])
    ids = [part for part in prompt if isinstance(part, int)]
    if any(not 0 <= token < card.tokenizer.vocab_size for token in ids):
        raise invalid(f"token ids must be from 0 to {card.tokenizer.vocab_size - 1}", "prompt")
    return ids


def _call(
    body: _Body,
    tokens: list[int],
    wanted: int | None,
    default: int,
    card: ModelCard,
    served: frozenset[str],
    *,
    include_usage: bool = False,
) -> Call:
    """Fit the request into the model's context. `wanted` must fit as it is; `default` is cut to the room there is."""
    if body.model and body.model not in served:
        names = ", ".join(sorted(served))
        raise invalid(
            f"there is no model {body.model!r} here; this server has {names}",
            "model",
            code="model_not_found",
            status=404,
        )
    if body.truncate_prompt_tokens is not None:
        keep = body.truncate_prompt_tokens
        if keep < 0:
            keep = max(1, card.context - (wanted or 1))
        tokens = tokens[max(0, len(tokens) - keep) :]
    if not tokens:
        raise invalid("the prompt is empty; send at least one character", "prompt")
    room = card.context - len(tokens)
    if room < (wanted or 1):
        raise _too_long(len(tokens), wanted, card.context)
    params = SamplingParams(
        max_tokens=wanted or min(default, room),
        temperature=body.temperature,
        top_k=max(0, body.top_k),
        top_p=body.top_p,
        seed=body.seed,
        stop=tuple(body.stop),
    )
    return Call(tuple(tokens), params, body.user, body.stream, include_usage)


def _too_long(prompt: int, wanted: int | None, context: int) -> ApiError:
    """OpenAI's answer to what does not fit; nothing is cut off behind the caller's back."""
    asked = f" and max_tokens asks for {wanted} more" if wanted else ", which leaves no room for an answer"
    if wanted and prompt < context:
        way_out = f"ask for at most {context - prompt}"
    else:
        way_out = "send a shorter prompt, or truncate_prompt_tokens to keep its end"
    message = f"the model's context is {context} tokens; the prompt has {prompt}{asked}: {way_out}"
    return invalid(message, "max_tokens" if wanted and prompt < context else "prompt", code="context_length_exceeded")
