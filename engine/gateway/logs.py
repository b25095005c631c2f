"""The worker's log: one JSON object a line on stdout, which is a rotated file."""

from __future__ import annotations

import json
import sys
import time

lost = 0
"""Lines that the disk did not take."""


def log(event: str, **facts: object) -> None:
    """Write one line, at once. A full disk costs the line, and never what was being done."""
    global lost
    try:
        sys.stdout.write(json.dumps({"at": round(time.time(), 3), "event": event, **facts}) + "\n")
        sys.stdout.flush()
    except OSError:
        lost += 1
