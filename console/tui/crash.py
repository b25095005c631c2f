"""What happens when the console itself fails: a short line on the terminal, a redacted report only its owner reads."""

from __future__ import annotations

import os
import re
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

_SECRET = re.compile(
    r"(?i)\b([\w-]*(?:token|password|passwd|secret|api[_-]?key|authorization|bearer)[\w-]*)(\s*[=:]\s*|\s+)(\S+)"
)
_URL_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@")


def redact(text: str) -> str:
    """`text` without what looks like a secret."""
    return _URL_USER.sub(r"\1***@", _SECRET.sub(r"\1\2***", text))


def report_dir(environ: Mapping[str, str]) -> Path:
    """Where reports are kept."""
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/")) / ".local" / "state")
    return Path(base) / "airboss"


def write_report(error: BaseException, environ: Mapping[str, str]) -> Path | None:
    """Write the traceback, without local variables, to a file of mode 0600; None if it cannot be written."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=False).format()
    directory = report_dir(environ)
    path = directory / f"console-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.log"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8", errors="replace"
        ) as file:
            file.write(redact("".join(lines)))
    except OSError:
        return None
    return path


def _what(error: BaseException) -> str:
    return redact(f"{type(error).__name__}: {error}".splitlines()[0][:200])


def _where(path: Path | None) -> str:
    return f"report: {path}" if path else "no report could be written"


def short_line(error: BaseException, path: Path | None) -> str:
    """One line for the terminal, when the console ends."""
    ends = "What runs goes on; open it again with `airboss`."
    return f"airboss: the console failed ({_what(error)}); {_where(path)}. {ends}"


def view_line(error: BaseException, path: Path | None) -> str:
    """One line for the status line, when a view cannot show what it should."""
    return f"✗ this view failed ({_what(error)}), the others work; {_where(path)}"
