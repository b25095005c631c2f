"""A benchmark's word on what it does now, on stderr: stdout is the report's alone."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One line for the person who waits."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
