"""Reading the engine's API over its Unix socket with the standard library: what `status` and every list do.

The whole client (console.client) also speaks to URLs and sends verbs, but importing it and its schemas takes longer than
the answer; a list that is looked at in a hurry, or in a shell's loop, does not wait for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from console.commands.admin_socket import request
from state.words import OperationFailed, Unreachable, error_from_dict

READ_TIMEOUT_S = 5.0
UP = "start the engine with `airboss up -d`"


class Get(Protocol):
    """`get(path, params)`: the decoded JSON at a path of the engine's API. Raises AirbossError."""

    def __call__(self, path: str, params: Mapping[str, Any] | None = None, /) -> Any:
        """The decoded JSON."""


def read(
    socket: Path | str, path: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = READ_TIMEOUT_S
) -> Any:
    """The JSON at `path` of the engine behind `socket`; parameters that are None are left out.

    Raises Unreachable, the error that the engine answered with, or OperationFailed for an answer that is none.
    """
    given = {name: value for name, value in (params or {}).items() if value is not None}
    target = f"{path}?{urlencode(given)}" if given else path
    try:
        status, body = request(str(socket), "GET", target, timeout_s=timeout_s)
    except TimeoutError as error:
        raise Unreachable(f"the engine at {socket} did not answer within {timeout_s:g} s", hint=UP) from error
    except OSError as error:
        raise Unreachable(f"the engine does not answer at {socket}", hint=UP) from error
    try:
        value = json.loads(body)
        if status < 400:
            return value
        fault = value["error"]
    except (ValueError, KeyError, TypeError) as error:
        raise OperationFailed(
            f"the engine answered {status} to {path} with something that is not its API's",
            hint="console and engine are of different versions: `airboss up -d` hands over to this one",
            code="protocol",
        ) from error
    raise error_from_dict(fault if isinstance(fault, dict) else {"message": str(fault)})
