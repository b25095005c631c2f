"""Answers that are no result, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import math

from starlette.responses import JSONResponse

from engine.serving.request import ErrorKind


class ApiError(Exception):
    """An answer with an HTTP status of 400 or above. The message ends in what the caller can do.

    `rejection` is the label under which /metrics counts it, when the front itself turned the request away.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        rejection: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.rejection = rejection

    def body(self) -> dict[str, object]:
        """The JSON body, also sent as the last event of a stream that broke."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self, request_id: str) -> JSONResponse:
        """The whole answer."""
        headers = {"x-request-id": request_id}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return JSONResponse(self.body(), self.status, headers)


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def invalid(message: str, param: str | None = None, *, code: str = "invalid_value", status: int = 400) -> ApiError:
    """The request cannot be meant; sending it again will not help."""
    return ApiError(
        status,
        message,
        kind="invalid_request_error",
        code=code,
        param=param,
        rejection="context" if code == "context_length_exceeded" else "invalid",
    )


def unavailable(message: str, code: str, *, retry_after_s: float, rejection: str | None = None) -> ApiError:
    """This replica cannot now; another one, or this one later, may."""
    return ApiError(
        503, message, kind="service_unavailable", code=code, retry_after_s=retry_after_s, rejection=rejection
    )


def deadline_passed(deadline_s: float) -> ApiError:
    """The answer took too long."""
    return ApiError(
        504,
        f"the answer was not complete within {deadline_s:g} s; ask for fewer tokens, or try again later",
        kind="timeout_error",
        code="deadline_exceeded",
    )


def failed(kind: ErrorKind) -> ApiError:
    """What went wrong in the engine, as an answer."""
    match kind:
        case ErrorKind.OUT_OF_MEMORY:
            return unavailable("there was not enough memory for this request; try again", kind.value, retry_after_s=1)
        case ErrorKind.ENGINE_DEAD:
            return unavailable("the engine of this replica died; ask another", kind.value, retry_after_s=1)
        case ErrorKind.NOT_A_NUMBER:
            return ApiError(
                500,
                "the model computed something that is not a number; its release should be rolled back",
                kind="server_error",
                code=kind.value,
            )
