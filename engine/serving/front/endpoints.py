"""The three ways to ask for text, for whoever brings the body: HTTP, a job, or a line of a batch file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel

from engine.serving.front.calls import Call, Names, chat_call, completion_call, generate_call
from engine.serving.front.formats import ChatForm, CompletionForm, Envelope, Form, GenerateForm
from engine.serving.front.schemas import ChatBody, CompletionBody, GenerateBody
from engine.serving.loop import ModelCard


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How one path reads its bodies and words its answers."""

    path: str
    body: type[BaseModel]
    read: Callable[[object, ModelCard, Names], Call]
    form: Callable[[Envelope], Form]
    id_prefix: str
    summary: str


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(
            "/v1/completions", CompletionBody, completion_call, CompletionForm, "cmpl", "Continue one or more prompts"
        ),
        Endpoint("/v1/chat/completions", ChatBody, chat_call, ChatForm, "chatcmpl", "Answer a conversation"),
        Endpoint(
            "/generate", GenerateBody, generate_call, GenerateForm, "gen", "The short form: a text in, a text out"
        ),
    )
}
