"""The Status bodies of a real API server, word for word where a client may read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kube.resources import Resource
from kube.values import Obj

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass
class ApiError(Exception):
    """An answer other than success."""

    code: int
    reason: str
    message: str
    details: Obj = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def status(self) -> Obj:
        """The body of the answer."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            **({"reason": self.reason} if self.reason else {}),
            **({"details": self.details} if self.details else {}),
            "code": self.code,
        }


def _about(which: Resource, name: str) -> Obj:
    about = {"name": name, "group": which.group, "kind": which.plural}
    return {key: value for key, value in about.items() if value}


def not_found(which: Resource, name: str) -> ApiError:
    """404: no such object."""
    return ApiError(404, "NotFound", f'{which.qualified} "{name}" not found', _about(which, name))


def already_exists(which: Resource, name: str) -> ApiError:
    """409: the name is taken."""
    return ApiError(409, "AlreadyExists", f'{which.qualified} "{name}" already exists', _about(which, name))


def conflict(which: Resource, name: str, why: str = MODIFIED) -> ApiError:
    """409: the world moved since the caller looked."""
    said = f'Operation cannot be fulfilled on {which.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", said, _about(which, name))


def bad_request(message: str) -> ApiError:
    """400: not understood."""
    return ApiError(400, "BadRequest", message)


def unsupported_patch(custom: bool) -> ApiError:
    """415: a kind of patch that this resource does not take."""
    kinds = ["application/json-patch+json", "application/merge-patch+json"]
    kinds += [] if custom else ["application/strategic-merge-patch+json"]
    kinds += ["application/apply-patch+yaml", "application/apply-patch+cbor"]
    said = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(kinds)
    return ApiError(415, "UnsupportedMediaType", said)


@dataclass(frozen=True, slots=True)
class Cause:
    """One field that is wrong."""

    type: str
    field: str
    message: str


def invalid(which: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """422: validation refused, every cause named."""
    lines = [f"{cause.field}: {cause.message}" for cause in causes]
    said = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    where = f"{which.kind}.{which.group}" if which.group else which.kind
    about = {
        **({"name": name} if name else {}),
        **({"group": which.group} if which.group else {}),
        "kind": which.kind,
        "causes": [{"reason": c.type, "message": c.message, "field": c.field} for c in causes],
    }
    return ApiError(422, "Invalid", f'{where} "{name}" is invalid: {said}', about)


def patch_refused() -> ApiError:
    """422: a JSON patch that does not apply, a failed `test` among them. The real server says no more than this."""
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request")


def expired(message: str) -> ApiError:
    """410: older than what the server remembers."""
    return ApiError(410, "Expired", message)


def too_many(message: str, retry_after_s: int, causes: list[Obj] | None = None) -> ApiError:
    """429 with Retry-After."""
    details: Obj = {"retryAfterSeconds": retry_after_s, **({"causes": causes} if causes else {})}
    return ApiError(429, "TooManyRequests", message, details, {"Retry-After": str(retry_after_s)})


def internal(message: str) -> ApiError:
    """500."""
    said = f"Internal error occurred: {message}"
    return ApiError(500, "InternalError", said, {"causes": [{"message": message}]})


def forbidden(which: Resource, name: str, why: str) -> ApiError:
    """403: access or admission refuses."""
    subject = f'{which.qualified} "{name}"' if name else which.qualified
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", _about(which, name))


def unauthorized() -> ApiError:
    """401: a token that is not, or no longer, known."""
    return ApiError(401, "Unauthorized", "Unauthorized")
