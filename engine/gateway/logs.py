"""The worker's log: one JSON object a line on stdout, which is a rotated file."""

from __future__ import annotations

import json
import sys
import time


def log(event: str, **facts: object) -> None:
    """Write one line, at once."""
    sys.stdout.write(json.dumps({"at": round(time.time(), 3), "event": event, **facts}) + "\n")
    sys.stdout.flush()
