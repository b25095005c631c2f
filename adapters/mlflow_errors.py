"""MLflow's exceptions as ours: not there, not reachable, or refused, each with a sentence.

MLflow wraps most troubles in one exception with an error code, but lets some of `requests`, `sqlalchemy` and the
operating system through; a proxy's login page comes as a JSON decoding error.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from state.words import AirbossError, OperationFailed, Unreachable

_MISSING = "RESOURCE_DOES_NOT_EXIST"
_UNREACHABLE_CODES = frozenset({"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"})
_UNREACHABLE_WORDS = (
    "failed with exception",  # MLflow's own words around a connection error
    "failed with timeout exception",
    "Max retries exceeded",
    "Connection refused",
    "database is locked",
    "failed with error code 5",
    "failed with error code 429",
)
_SLOW_WORDS = ("failed with timeout exception", "Read timed out", "ConnectTimeout", "ReadTimeout")
_TLS_WORDS = ("CERTIFICATE_VERIFY_FAILED", "SSLError", "TLSV13_ALERT", "TLSV1_ALERT", "PEM lib")
_STATUS = re.compile(r"too many (\d{3}) error responses|failed with error code (\d{3})")
_DAMAGED_WORDS = (
    "file is not a database",
    "database disk image is malformed",
    "Can't locate revision",
    "out-of-date database",
)
_DENIED_WORDS = ("failed with error code 401", "failed with error code 403", "PERMISSION_DENIED", "UNAUTHENTICATED")
_NO_JSON_WORDS = ("not in a valid JSON format",)
_CAUSE = re.compile(r"\[Errno -?\d+\] [^'\")]+|(?:Read|Connect)Timeout|timed out")
_LONGEST = 300
_SERVER_LOG = "see the MLflow server's log; a proxy in front of it says the same when it is gone"


def check_database(path: Path) -> None:
    """See that an embedded store is whole before MLflow opens it: MLflow would keep the broken connection for good.

    Raises OperationFailed (`registry_damaged`). No file, or an empty one, is a store to be made.
    """
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise _damaged(f"the registry at {path} cannot be opened", found)


def is_missing(error: BaseException) -> bool:
    """Whether MLflow says that what was asked for does not exist."""
    return getattr(error, "error_code", "") == _MISSING


@contextlib.contextmanager
def clear_errors(what: str) -> Iterator[None]:
    """Raise every trouble of MLflow inside as `what` and why: Unreachable or OperationFailed. Ours pass through."""
    import mlflow.exceptions
    import requests
    import sqlalchemy.exc

    try:
        yield
    except AirbossError:
        raise
    except (requests.exceptions.RequestException, TimeoutError, ConnectionError) as error:
        if isinstance(error, requests.exceptions.JSONDecodeError):
            raise _no_mlflow(what) from error
        raise _no_answer(what, error) from error
    except (mlflow.exceptions.MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        raise as_airboss(what, error) from error
    except ValueError as error:
        raise _no_mlflow(what) from error


def as_airboss(what: str, error: Exception) -> AirbossError:
    """The error to raise for `error`, which made `what` fail."""
    code, text = str(getattr(error, "error_code", "")), str(error)
    if is_missing(error):
        return OperationFailed(f"{what}: {_brief(error)}", hint="look at what the registry has", code="not_found")
    if any(word in text for word in _DENIED_WORDS) or code in _DENIED_WORDS:
        return OperationFailed(
            f"{what}: MLflow denies it: {_brief(error)}",
            hint="see [registry] access in airboss.toml, and what that account may do (EDIT on the model)",
            code="auth",
        )
    if any(word in text for word in _DAMAGED_WORDS):
        return _damaged(what, _brief(error))
    if any(word in text for word in _NO_JSON_WORDS):
        return _no_mlflow(what)
    if code in _UNREACHABLE_CODES or any(word in text for word in (*_UNREACHABLE_WORDS, *_TLS_WORDS)):
        return _no_answer(what, error)
    if code == "INTERNAL_ERROR" and type(error).__name__ == "RestException":
        return Unreachable(f"{what}: the MLflow server met an error of its own: {_brief(error)}", hint=_SERVER_LOG)
    return OperationFailed(f"{what}: {_brief(error)}", hint="see the registry worker's log")


def _no_answer(what: str, error: Exception) -> AirbossError:
    """Nothing came that says yes or no: down, slow, not to be trusted, or an error of the server's own."""
    text = f"{type(error).__name__}: {error}"
    if any(word in text for word in _TLS_WORDS):
        hint = "see [registry] access in airboss.toml: ca has the authority of the server's certificate, cert and key are ours"
        return Unreachable(f"{what}: the certificates do not agree: {_brief(error)}", hint=hint)
    if any(word in text for word in _SLOW_WORDS):
        hint = "see the MLflow server's load and its database, or raise [registry] timeout"
        return Unreachable(f"{what}: the MLflow server did not answer in time: {_brief(error)}", hint=hint)
    if status := _STATUS.search(text):
        return Unreachable(f"{what}: the MLflow server answered {status.group(1) or status.group(2)}", hint=_SERVER_LOG)
    return Unreachable(f"{what}: {_brief(error)}", hint="see that the MLflow server runs and can be reached")


def _damaged(what: str, why: str) -> AirbossError:
    return OperationFailed(
        f"{what}: its database cannot be used: {why}",
        hint="move mlflow.db away or restore it from a backup; releases keep serving without it",
        code="registry_damaged",
    )


def _no_mlflow(what: str) -> AirbossError:
    return Unreachable(
        f"{what}: what answers there does not speak MLflow's JSON",
        hint="a proxy's login page does this: see the registry's url and credentials",
    )


def _brief(error: Exception) -> str:
    """What went wrong, on one line: the cause of a failed connection, else the error's beginning without its SQL."""
    text = " ".join(str(error).split()).partition(" [SQL:")[0] or type(error).__name__
    if (cause := _CAUSE.search(text)) and any(word in text for word in _UNREACHABLE_WORDS):
        return cause.group()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
