"""What may be asked over HTTP: the bodies and their checks. What they mean to a model is calls.py's matter.

The JSON schemas of `/openapi.json` are made from these classes, so a field's docstring is what a caller reads.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.serving.front.errors import invalid

MAX_CHOICES = 16
"""Answers one prompt may be given at once (`n`, `best_of`)."""
MAX_GENERATIONS = 128
"""Generations one request may start: prompts times `best_of`."""
_INT64 = 1 << 63

StopString = Annotated[str, Field(min_length=1, max_length=256)]
Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0, allow_inf_nan=False)]
Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES)]

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "min_tokens": (0,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "prompt_logprobs": (),
    "chat_template": (),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
}
"""Options of OpenAI's and vLLM's APIs that this server lacks, and the values that ask for nothing. Others are refused."""


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False
    """Send the token counts as a last event of their own."""


class Body(BaseModel):
    """What all three endpoints share. Unknown fields that change no text (metadata, store, …) are let through."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, use_attribute_docstrings=True)

    model: str | None = None
    """The service's or the release's name; left out: whatever this server has."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens to generate; prompt and answer must fit the model's context together."""
    temperature: float = Field(default=1.0, ge=0.0, le=2.0, allow_inf_nan=False)
    """0 takes the likeliest token each time."""
    top_k: int = Field(default=0, ge=-1)
    """Draw among this many likeliest tokens; 0 or -1: among all."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    """Draw among the likeliest tokens that together have this probability."""
    min_p: Probability = 0.0
    """Leave out tokens less likely than this share of the likeliest one's probability."""
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    """Fixes the draws, whatever else is in the batch. Choice i draws from seed + i."""
    stop: list[StopString] = Field(default_factory=list, max_length=16)
    """The answer ends before the first of these; a single string may be given as it is."""
    stop_token_ids: list[int] = Field(default_factory=list, max_length=64)
    """The answer ends at any of these tokens, which are not shown."""
    ignore_eos: bool = False
    """Go on to max_tokens whatever the model says: for measuring."""
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: float = Field(default=1.0, gt=0.0, le=10.0, allow_inf_nan=False)
    """Above 1: tokens that stand in prompt or answer already become less likely."""
    logit_bias: dict[str, Bias] = Field(default_factory=dict, max_length=1024)
    """Token id to what is added to its logit, -100 to 100."""
    n: Choices = 1
    """Answers to each prompt."""
    stream: bool = False
    """Server-sent events, ended by `data: [DONE]`."""
    stream_options: StreamOptions = StreamOptions()
    user: str = Field(default="", max_length=256)
    """Whose quota this counts against, unless the gateway says who it is."""
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)
    """Keep this many tokens of the prompt's end (-1: as many as fit) instead of refusing a prompt that is too long."""


class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    """A text, token ids, or a list of either: each becomes a choice (or `n`) of its own."""
    best_of: Choices | None = None
    """Generate this many answers to each prompt and send the `n` likeliest."""
    echo: bool = False
    """Begin the answer with the prompt."""
    logprobs: int | None = Field(default=None, ge=0, le=5)
    """Send the log probability of each token, and of this many likeliest ones."""


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


class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """OpenAI's newer name for max_tokens; it wins if both are there."""
    logprobs: bool = False
    """Send the log probability of each token."""
    top_logprobs: int = Field(default=0, ge=0, le=20)
    """And of this many likeliest ones; needs `logprobs`."""


class GenerateBody(Body):
    """POST /generate: the short form. `max_tokens` is at most; the answer says how many there were."""

    prompt: str
    max_tokens: int | None = Field(default=100, ge=1)
    temperature: float = Field(default=0.8, ge=0.0, le=2.0, allow_inf_nan=False)
    top_k: int = Field(default=200, ge=-1)
    echo: bool = True
    """The text begins with the prompt; false: the answer alone."""


B = TypeVar("B", bound=BaseModel)


def parse(kind: type[B], value: object) -> B:
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
