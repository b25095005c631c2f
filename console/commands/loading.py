"""`load`: the load generator as a program of its own, because it shares nothing with a console but its numbers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.asking import gateway_address
from console.commands.format import milliseconds, number
from console.output import Facts, Outcome, Table
from state.words import Denied, ExitCode, OperationFailed, UsageError, error_from_dict

if TYPE_CHECKING:
    from console.commands.context import Context

MODULE = "engine.load"
DEFAULT_PROMPTS = ("The ", "In the beginning ", "A function that ", "If the ")


def load(
    context: Context,
    *,
    service: str,
    env: str | None,
    rps: float,
    duration_s: float,
    prompts: tuple[str, ...],
    max_tokens: int,
    seed: int,
) -> Outcome:
    """Send the load; the report by track and release. Exit 1 when a request failed.

    The generator reads its plan as JSON on stdin, writes a JSON line a second and the report last. Ctrl-C ends it early;
    what it counted until then is printed.
    """
    _demand_confirmation(context, service, env)
    url = gateway_address(context)
    if context.options.dry_run:
        return Outcome(
            "LoadReport",
            [],
            blocks=(Facts((("would send", f"{rps:g} requests a second for {duration_s:g} s to {url}"),)),),
        )
    if context.is_read_only:
        raise Denied("load takes capacity from users, and this console is read-only", code="read_only")
    plan = {
        "url": url,
        "service": service,
        "env": env or "",
        "prompts": list(prompts or DEFAULT_PROMPTS),
        "rps": rps,
        "duration_s": duration_s,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    report = _play(plan)
    return _outcome(report, service)


def _demand_confirmation(context: Context, service: str, env: str | None) -> None:
    """Load on a protected environment takes its name and a reason."""
    known = context.config.environment
    if service not in context.config.service:
        raise UsageError(
            f"there is no service {service!r} in airboss.toml", hint=f"services: {', '.join(context.config.service)}"
        )
    if env is not None and env not in known:
        raise UsageError(f"there is no environment {env!r}", hint=f"environments: {', '.join(known)}")
    meant = [known[env]] if env is not None else list(known.values())
    if context.config.is_demo or not any(e.protected for e in meant):
        return
    given = context.options
    if given.confirm_name and given.confirm_name != service:
        raise UsageError(
            f"--confirm-name {given.confirm_name} is not the service's name",
            hint=f"it is {service}",
            code="confirm_name",
        )
    missing = [
        flag
        for flag, there in (
            ("--yes", given.yes),
            (f"--confirm-name {service}", given.confirm_name),
            ("--reason TEXT", given.reason),
        )
        if not there
    ]
    if missing:
        raise UsageError(
            "load on a protected environment must be confirmed",
            hint=f"add {' '.join(missing)}, or choose --env dev",
            code="confirm",
        )


def _play(plan: dict[str, Any]) -> dict[str, Any]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    last: dict[str, Any] = {}
    try:
        process.stdin.write(json.dumps(plan))
        process.stdin.close()
        while True:
            try:
                line = process.stdout.readline()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                continue
            if not line:
                break
            last = json.loads(line)
            if "sent" in last:
                diagnostics.note(
                    f"{last['elapsed_s']:.0f} s: {last['sent']} sent, {last['answered']} answered, {last['failed']} failed"
                )
        process.wait()
    except BrokenPipeError:
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if "error" in last:
        raise error_from_dict(last["error"])
    if "sent" not in last:
        raise OperationFailed(
            f"the load generator ended with {process.returncode} and no report", hint="what it wrote above says why"
        )
    return last


def _outcome(report: dict[str, Any], service: str) -> Outcome:
    facts = [
        ("sent", f"{report['sent']} in {report['elapsed_s']:.1f} s"),
        ("answered", number(report["answered"])),
        ("failed", number(report["failed"])),
        ("skipped", number(report.get("skipped"))),
        ("p50, p95, p99", ", ".join(milliseconds(report.get(f"p{q}_ms")) for q in (50, 95, 99))),
    ]
    rows = [
        (kind, name, number(o["answered"]), number(o["failed"]))
        for kind in ("track", "release")
        for name, o in report.get(f"by_{kind}", {}).items()
    ]
    blocks = (Facts(facts), Table(("BY", "NAME", "ANSWERED", "FAILED"), rows, frozenset({2, 3})))
    return Outcome(
        "LoadReport",
        [report],
        blocks=blocks,
        names=(f"service/{service}",),
        notes=report.get("errors", ()),
        exit=ExitCode.FAILED if report["failed"] else ExitCode.OK,
    )
