"""`load`: the load generator as a program of its own, because it shares nothing with a console but its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.asking import gateway_address, own_certificate, shown_certificate
from console.commands.format import milliseconds, number
from console.output import Facts, Outcome, Table
from state.words import AirbossError, Denied, ExitCode, OperationFailed, UsageError, error_from_dict

if TYPE_CHECKING:
    from console.commands.context import Context

MODULE = "engine.load_command"


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

    Ctrl-C ends it early; what it counted until then is printed.
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
    words = [
        "--url",
        url,
        "--service",
        service,
        "--env",
        env or "",
        "--rps",
        f"{rps:g}",
        "--duration",
        f"{duration_s:g}",
    ]
    if certificate := own_certificate(context, url):
        words += ["--trust", str(certificate)]
        if (shown := shown_certificate(context)) is not None:
            words += ["--show", str(shown)]
    words += ["--max-tokens", str(max_tokens), "--seed", str(seed)]
    with tempfile.NamedTemporaryFile("w", prefix="airboss-prompts-", encoding="utf-8") as file:
        if prompts:
            file.write("\n".join(prompts) + "\n")
            file.flush()
            words += ["--prompts", file.name]
        report = _play(words)
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


def _play(words: list[str]) -> dict[str, Any]:
    """The generator's last report. Ctrl-C and TERM reach it as TERM: it waits for what is in flight and reports."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    last: dict[str, Any] = {}
    try:
        while process.poll() is None or last.get("type") != "END":
            try:
                line = process.stdout.readline()
            except KeyboardInterrupt:
                process.terminate()
                continue
            if not line:
                break
            last = json.loads(line)
            if last["type"] == "PROGRESS":
                diagnostics.note(
                    f"{last['elapsed_s']:.0f} s: {last['sent']} sent, {last['answered']} answered, {last['failed']} failed"
                )
        said = process.stderr.read()
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if last.get("type") != "END":
        raise _ended(process.returncode, said)
    return {key: value for key, value in last.items() if key != "type"}


def _ended(code: int, said: str) -> AirbossError:
    """The error of a generator that ended without a report."""
    lines = said.strip().splitlines()
    try:
        return error_from_dict(json.loads(lines[-1])["error"])
    except (IndexError, ValueError, KeyError, TypeError):
        for line in lines[-5:]:
            diagnostics.say(f"  {line}")
        return OperationFailed(f"the load generator ended with {code} and no report", hint="what it wrote says why")


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
