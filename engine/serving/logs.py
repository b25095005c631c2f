"""JSON log lines on stdout, one an event. No prompt and no generated text ever goes in."""

from __future__ import annotations

import json
import sys
import time


def log(event: str, **facts: object) -> None:
    """Write one line at once: the file behind stdout is what is left when the process is killed."""
    line = json.dumps({"at": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False, default=str)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
