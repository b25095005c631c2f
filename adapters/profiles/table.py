"""What each profile can be asked, as the table and the reasons of PROMETHEUS.md. `python -m adapters.profiles.table` prints them."""

from __future__ import annotations

import sys

from adapters.profiles.catalogue import PROFILES, reading_of
from adapters.profiles.profile import WORDS, Place, Profile
from state.metrics_config import ProfileChoice

_SHOWN = {"requests": "requests by track", "slow": "latency threshold", "gpu": "GPU"}


def answer(profile: Profile, word: str) -> str:
    """`yes`, `partly` where something of it is not seen, or `no`."""
    reading = reading_of(ProfileChoice.model_validate({"profile": profile.name}), Place("s", "e", "n", 500.0))
    if word not in reading.words("1m", "5s"):
        return "no"
    return "partly" if word in profile.lacks else "yes"


def table() -> str:
    """The table, in Markdown."""
    rows = [("profile", *(_SHOWN.get(word, word) for word in WORDS)), ("---",) * (len(WORDS) + 1)]
    rows += [(f'`"{name}"`', *(answer(one, word) for word in WORDS)) for name, one in PROFILES.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def reasons() -> str:
    """Why what is not `yes`, a line each; words with one reason stand together."""
    lines = []
    for name, profile in PROFILES.items():
        by_reason: dict[str, list[str]] = {}
        for word in WORDS:
            if why := profile.lacks.get(word):
                by_reason.setdefault(why, []).append(_SHOWN.get(word, word))
        lines += [f"- {name}, {', '.join(words)}: {why}." for why, words in by_reason.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n\n{reasons()}\n")
