"""Rows against the seed's server: a nanoGPT of 10.8 M parameters, answers of 100 tokens, over HTTP."""

from __future__ import annotations

from functools import partial
from typing import Any

from engine.bench.progress import say
from engine.bench.report import Row, compared
from engine.bench.serving.bundles import NANO_CHARS, nano_release
from engine.bench.serving.http_load import Found, load
from engine.bench.serving.setup import Setup, reference_text
from engine.bench.serving.sides import Server

NEW = 100
PROMPT = 16
CLIENTS = 32
SEED_ENOUGH = 6
"""Answers of the seed's server that make its rate: it serves one at a time, so its 32 clients wait in one line."""
TARGETS = {CLIENTS: 30.0, 1: 3.5}


def rows(setup: Setup) -> list[Row]:
    """Requests a second at 32 clients and at 1, each in both of the dtypes that make sense on this model."""
    root = nano_release(setup.sides.root / "nano")
    texts = _texts()
    found = []
    dtypes = ("bfloat16",) if setup.is_quick else ("bfloat16", "float32")
    for clients in (CLIENTS, 1):
        serving = {"max_batch": clients, "max_batch_tokens": 512, "request_deadline_s": 600}
        # Many clients: front and clients need a core as well, and our server as it comes leaves them one.
        ours = {
            dtype: setup.sides.own_server(root / "bundle", {**serving, "dtype": dtype}, as_it_comes=clients > 1)
            for dtype in dtypes
        }
        say(f"nanoGPT: {setup.rounds} rounds of {clients} clients, {NEW} tokens an answer")
        sides = {dtype: partial(_own, server, clients, texts) for dtype, server in ours.items()}
        for side in sides.values():
            side()
        rates = setup.measured({**sides, "seed": partial(_seed, setup, root, clients, texts)})
        for dtype in dtypes:
            is_judged = dtype == dtypes[0]
            found.append(
                compared(
                    f"nanoGPT 10.8M, {clients} client{'s' * (clients > 1)}, {dtype}",
                    "req/s",
                    rates[dtype],
                    rates["seed"],
                    "seed's server",
                    at_least=TARGETS[clients] if is_judged else None,
                    note=f"HTTP, {PROMPT}-char prompts, {NEW} tokens; {setup.threads} threads each"
                    + (", ours as it comes: all cores but one, or one" if clients > 1 else ""),
                )
            )
        for server in ours.values():
            setup.sides.stop(server)
    return found


def _texts() -> list[str]:
    """Prompts of the characters that nanoGPT knows: the seed's server answers any other with a 500."""
    known = set(NANO_CHARS)
    text = "".join(char for char in reference_text() if char in known)
    return [text[at : at + PROMPT] for at in range(0, 4096 * PROMPT, PROMPT)]


def _bodies(texts: list[str], count: int) -> list[dict[str, Any]]:
    """The next `count` requests; the list of texts is eaten up from its front and put back at its end."""
    taken, texts[:] = texts[:count], texts[count:] + texts[:count]
    return [{"prompt": text, "max_tokens": NEW, "temperature": 0.8, "top_k": 200} for text in taken]


def _own(server: Server, clients: int, texts: list[str]) -> float:
    found = load(server, "/generate", _bodies(texts, 2 * clients if clients > 1 else 6), clients)
    _check(found)
    return found.requests_per_s


def _seed(setup: Setup, root: Any, clients: int, texts: list[str]) -> float:
    """A server of its own each round: what its clients left behind in its line would be computed in the next one."""
    server = setup.sides.seed_server(root / "seed")
    load(server, "/generate", [{"prompt": "\n", "max_tokens": 2}], 1)
    found = load(server, "/generate", _bodies(texts, max(clients, SEED_ENOUGH)), clients, enough=SEED_ENOUGH)
    setup.sides.stop(server)
    _check(found)
    return found.requests_per_s


def _check(found: Found) -> None:
    """An answer that is short was not measured but lost."""
    short = [answer.tokens for answer in found.answers if answer.tokens != NEW]
    if short:
        raise AssertionError(f"an answer of {NEW} tokens had {short[0]}")
