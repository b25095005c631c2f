"""The demo's workspace: its airboss.toml, with the arithmetic of its policy beside it, and making room for it."""

from __future__ import annotations

import shutil
import tomllib
from contextlib import closing
from pathlib import Path

from console.offline_file import server_of
from state.config import CONFIG_NAME, load_config
from state.locks import is_locked
from state.paths import Paths
from state.words import Conflict, UsageError

RPS = 24.0
"""Requests per second that the demo sends; the arithmetic in the file below uses it."""
PATIENCE_S = 90.0
"""How long the demo's engine may take to come up."""
SERVICE = "chat"
ENV = "production"
PIPELINE = "charlm"
CLEAN_REQUESTS_TO_PASS = 83
"""At a limit of 5 % and alpha 0.05 / 2; a test holds it to the judge's own `requests_to_pass`."""

END = "down --all --yes --confirm-name demo --reason 'the demo is over'"
"""The words that end a demo: its environment is protected, as a real one is."""

_TEMPLATE = """\
# The workspace of `airboss demo`. Everything in it is real but small, so that the evidence comes in tens of seconds.
[workspace]
name = "demo"
kind = "demo"

[service.{service}]
slo = {{ availability = 95.0, latency_p95_ms = 1500, window_d = 1 }}
pipeline = "{pipeline}"
prober_interval = "5s"

[environment.{env}]
policy = "demo"
# A release may be made to misbehave here (act 4); elsewhere a fault is refused unless forced.
allow_faults = true

# How long a step takes. PASS by the service's own objective: an upper bound on the canary's bad share, valid at every
# look, must fall below the limit of 5 % (100 - availability, and the share slower than latency_p95_ms), for each of two
# metrics at alpha / 2 = 0.025. With no bad request that takes n requests with
#     ln 2 + ln(1 / 0.025) <= n * ln(1 / (1 - 0.05)), roughly: {clean} clean requests by the judge's exact mixture.
# At {rps:.0f} requests/s: the 25 % step gives {rps:.0f} * 0.25 = {at25:.0f}/s, so {clean} / {at25:.0f} = {s25:.0f} s; the 50 % step {s50:.0f} s; the 100 % step {s100:.0f} s;
# verification {s100:.0f} s. A bad request here and there costs about {extra} more each. Steps end by evidence, not by the clock.
[policy.demo]
strategy = "canary"
steps = [{{ weight = 25 }}, {{ weight = 50 }}, {{ weight = 100 }}]
judge = {{ margin = 1.0, alpha = 0.05, min_requests = 60, max_minutes = 4, no_data_after = "20s", bad_window = "3s" }}
# A team would ask for one at least; the demo has nobody to ask.
approvals = 0
warm_hold = "10m"

[pipeline.{pipeline}]
kind = "charlm"
{params}"""

_GATEWAY = """
[gateway]
# Port 0 takes a free one; `airboss status` shows it.
listen = "127.0.0.1:0"
"""

_CUT = """
# --cut-evidence: nobody answers at this address, so the judge has no data and must pause, never pass.
[metrics]
url = "http://127.0.0.1:9"
"""


def config_text(
    *, text: Path | None, cut_evidence: bool, params: dict[str, object], rps: float = RPS, servers: str = ""
) -> str:
    """The demo's airboss.toml. `params` are charlm's own (`train.steps`, …).

    `servers` is TOML of the user's, put last; a [gateway] or [metrics] in it takes the place of the demo's.
    """
    values = {**params, **({"collect.text": str(text)} if text else {})}
    lines = "".join(f"params.{_quoted(key)} = {_toml(value)}\n" for key, value in sorted(values.items()))
    written = _TEMPLATE.format(
        service=SERVICE, env=ENV, pipeline=PIPELINE, clean=CLEAN_REQUESTS_TO_PASS, rps=rps, at25=rps / 4,
        s25=CLEAN_REQUESTS_TO_PASS / (rps / 4), s50=CLEAN_REQUESTS_TO_PASS / (rps / 2), s100=CLEAN_REQUESTS_TO_PASS / rps,
        extra=64, params=lines,
    )  # fmt: skip
    theirs = set(_tables(servers))
    own = [
        text for name, text in (("gateway", _GATEWAY), ("metrics", _CUT if cut_evidence else "")) if name not in theirs
    ]
    return "".join([written, *own, f"\n# --with\n{servers.rstrip()}\n" if servers else ""])


def _tables(servers: str) -> dict[str, object]:
    """The tables of the user's file. Raises UsageError when it is no TOML: its lines are not yet those of airboss.toml."""
    try:
        return tomllib.loads(servers)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the file given to --with is not valid TOML: {error}", hint="see https://toml.io") from error


def _quoted(key: str) -> str:
    return f'"{key}"'


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def prepare(directory: Path, text: str) -> tuple[Paths, bool]:
    """Make `directory` a fresh demo workspace. Returns its paths, and whether an earlier demo's state was removed.

    Raises UsageError when something that is no demo stands there, Conflict when an earlier demo still runs or serves.
    """
    removed = False
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file", hint="name a directory that is not there yet")
    if directory.exists() and any(directory.iterdir()):
        _refuse_foreign(directory)
        paths = Paths.of(directory)
        alive = _alive(paths)
        if alive:
            raise Conflict(
                f"an earlier demo in {directory} is still alive ({', '.join(alive)})",
                hint=f"end it: airboss --workspace {directory} up -d && airboss --workspace {directory} {END}",
                code="demo_alive",
            )
        shutil.rmtree(paths.state, ignore_errors=True)
        removed = True
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_NAME).write_text(text, encoding="utf-8")
    load_config(directory)
    _refuse_used_database(Paths.of(directory))
    return Paths.of(directory), removed


def _refuse_used_database(paths: Paths) -> None:
    if (state := server_of(paths)) is None or state.url is None:
        return
    from state.databases import password
    from state.server_rows import ServerRows

    with closing(ServerRows(state.url, password(state, paths))) as rows:
        if rows.has_tables():
            raise UsageError(
                f"the database at {state.url} holds a store already, and the demo begins with an empty one",
                hint="`createdb` another one, and name it in the file given to --with",
                code="not_empty",
            )


def _refuse_foreign(directory: Path) -> None:
    names = {entry.name for entry in directory.iterdir()}
    if CONFIG_NAME in names:
        if load_config(directory).is_demo:
            return
        raise UsageError(
            f"{directory} is a workspace, and no demo's: the demo would throw its state away",
            hint="name another directory: airboss demo DIR",
            code="not_a_demo",
        )
    raise UsageError(
        f"{directory} is not empty and no demo's workspace",
        hint="name a directory that is not there yet: airboss demo DIR",
        code="not_a_demo",
    )


def _alive(paths: Paths) -> list[str]:
    found = ["engine"] if is_locked(paths.state / "engine.lock") else []
    if (paths.state / "run").is_dir():
        found += [lock.stem for lock in sorted((paths.state / "run").glob("*.lock")) if is_locked(lock)]
    return found
