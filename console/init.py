"""`airboss init`: a new workspace, all of whose settings are written out with what they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from console.output import Outcome, Text
from state.words import Conflict, OperationFailed

if TYPE_CHECKING:
    from console.commands.context import Context

TEMPLATE = """\
# An Airboss workspace. State lives in .airboss/ beside this file. `airboss help config` lists every field;
# `airboss config show` prints what is in effect, defaults included. Durations: 90, "90s", "5m", "1h30m".

[workspace]
name = "{name}"

# === what users call
[service.{service}]
pipeline = "charlm"                # what makes its releases
replicas = 1                       # model server processes per release
deadline = "30s"                   # a request that takes longer counts as failed

[service.{service}.slo]
availability = 99.5                # percent of requests that must succeed within the window
latency_p95_ms = 800               # ... and 95 % of them must be faster than this
window_d = 28

# === where it runs
[environment.dev]
protected = false                  # lighter confirmations
policy = "quick"
allow_faults = true                # releases with a fault set may be served here, for drills

[environment.production]           # protected = true is the default
policy = "careful"
targets = [{{ runtime = "local" }}]  # processes on this host

# === how a release moves
[policy.quick]
steps = [{{ weight = 50 }}, {{ weight = 100 }}]
approvals = 0
warm_hold = "5m"
judge = {{ min_requests = 50, max_minutes = 10 }}

[policy.careful]
strategy = "canary"
# Copies of 5 % of the requests first, compared with what users got; then the first users. `airboss help strategies`.
# HAProxy as the gateway copies nothing: take the mirror out there.
steps = [{{ mirror = 5 }}, {{ weight = 5 }}, {{ weight = 25 }}, {{ weight = 50 }}, {{ weight = 100 }}]
approvals = 1                      # people who must approve before the first step
warm_hold = "30m"                  # the release before stays ready so long: a rollback is then a weight change
judge = {{ margin = 1.0, alpha = 0.05, min_requests = 200, max_minutes = 30 }}

# A staging environment that soaks for 30 minutes before somebody approves:
# [environment.staging]
# policy = "soak"
# [policy.soak]
# steps = [{{ weight = 50 }}, {{ pause = "30m" }}, {{ approval = 1 }}, {{ weight = 100 }}]
# approvals = 0

# === who may what
# Without a table for an environment, the engine's own user may do everything and others may look.
# [roles.production]
# operator = ["group:oncall"]      # deploy, promote, pause; a rollback too
# approver = ["group:leads"]       # approvals, freezes, skipping a gate
# admin = ["ana"]                  # `airboss config apply`: a change of these tables holds once an admin applied it
# [people]
# shared = ["ci"]                  # accounts that are nobody in particular: they approve nothing
# [freeze.weekend]                 # nothing moves forward then; a rollback always does
# weekly = "fri 18:00 - mon 08:00"
# timezone = "Europe/Berlin"
# reason = "nobody watches"

# === what makes a release
[pipeline.charlm]
kind = "charlm"                    # collect, snapshot, validate, train, evaluate, register, release

[pipeline.charlm.params]
# "collect.text" = "data/"         # your own text; without it the interpreter's own documentation is used
"train.steps" = 600
"train.seed" = 1337

# === the outside
[gateway]
listen = "{listen}"        # the address users call; port 0 takes a free one
workers = 2

[alerts]                           # with none of these, no one is paged, and `airboss doctor` says so
# alertmanager = ["http://127.0.0.1:9093"]
# webhook = "https://alerts.example.org/hook"
# command = ["/usr/local/bin/page", "oncall"]

# [hook.chatops]                   # told of every rollout's phases, signed; `airboss hook test chatops`
# url = "env:CHATOPS_URL"
# secret = "env:CHATOPS_KEY"

# Everything below works embedded; one line each swaps in a server.
# [registry]
# url = "http://mlflow.example.org:5000"      # access = {{ token = "env:MLFLOW_TOKEN" }}
# [metrics]
# url = "http://prometheus.example.org:9090"  # profile = "istio": whose counters the judge reads (`airboss help prometheus`)
"""


def template(name: str, service: str, listen: str) -> str:
    """The text of a new airboss.toml, checked. Raises ConfigError when a name or the address cannot be one."""
    from state.config import parse_config

    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    text = TEMPLATE.format(name=quoted, service=service, listen=listen)
    parse_config(text, Path("airboss.toml"))
    return text


def init(context: Context, *, directory: Path, service: str, listen: str) -> Outcome:
    """Write airboss.toml into `directory`, which is made if need be. An existing one is never overwritten."""
    root = directory.expanduser().resolve()
    path = root / "airboss.toml"
    text = template(root.name, service, listen)
    if path.exists():
        raise _exists(path)
    if not context.options.dry_run:
        try:
            root.mkdir(parents=True, exist_ok=True)
            _write_new(path, text)
        except FileExistsError:
            raise _exists(path) from None
        except OSError as error:
            raise OperationFailed(
                f"{path} cannot be written: {error.strerror}", hint="mend the directory's permissions, or name another"
            ) from error
    said = f"would write {path}" if context.options.dry_run else f"wrote {path}"
    then = "" if root == Path.cwd() else f"cd {directory} && "
    return Outcome(
        "Workspace",
        [{"path": str(root), "service": service, "written": not context.options.dry_run}],
        blocks=(Text(f"{said}\nnext: {then}airboss up -d && airboss pipeline run charlm --watch"),),
        names=(str(root),),
        ref=f"workspace/{root.name}",
    )


def _exists(path: Path) -> Conflict:
    return Conflict(
        f"{path} is there already; it was not touched", hint="edit it, or name another directory", code="exists"
    )


def _write_new(path: Path, text: str) -> None:
    """All of it or nothing, and never over another file. Raises FileExistsError, OSError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
