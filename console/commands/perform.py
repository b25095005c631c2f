"""From a parsed line to its outcome: the one place where a request is carried out, for the command line and scripts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from console.commands.requests import LocalRequest, Parsed, ViewRequest
from console.output import Outcome

if TYPE_CHECKING:
    from console.commands.context import Context


def perform(parsed: Parsed, context: Context) -> Outcome:
    """Do what the line says. Raises AirbossError."""
    request = parsed.request
    if isinstance(request, ViewRequest):
        from console.commands.views import show

        return show(request, context)
    if isinstance(request, LocalRequest):
        module, _, name = request.target.partition(":")
        outcome = getattr(importlib.import_module(module), name)(context, **request.args)
        assert isinstance(outcome, Outcome)
        return outcome
    from console.commands.acting import act

    return act(request, context)
