"""The one grammar: words → a request. The command line, the console's `:` line and scripts all parse here.

Parsing has no effect and asks nobody. A line may carry the global options anywhere after its noun.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from console.commands.requests import LocalRequest, Options, Parsed, ViewRequest
from console.commands.tree import DURATION, HelpWanted, Place, Root, given_options
from state.words import AirbossError, UsageError

if TYPE_CHECKING:
    from engine.api.schemas import VerbRequest

__all__ = ["HelpWanted", "LocalRequest", "Options", "Parsed", "ViewRequest", "parse_args", "parse_line", "root"]

_C = "console.commands"
SECTIONS: tuple[tuple[str, tuple[Place, ...]], ...] = (
    (
        "Begin",
        (
            ("demo", f"{_C}.demo:demo", "the whole loop on real text, start to finish"),
            ("init", f"{_C}.workspace:init", "a new workspace"),
            ("up", f"{_C}.engine:up", "start the engine"),
            ("down", f"{_C}.engine:down", "stop the engine; what serves goes on"),
            ("status", f"{_C}.engine:status", "one screen of health"),
            ("doctor", f"{_C}.workspace:doctor", "what is wrong here, and what to do"),
        ),
    ),
    (
        "Move",
        (
            ("deploy", f"{_C}.deploy:deploy", "roll a release out"),
            ("rollback", f"{_C}.deploy:rollback", "return a service to its last good release"),
            ("rollout", f"{_C}.rollout:rollout", "promote, pause, hold, abort, retry, approve, weight"),
            ("freeze", f"{_C}.freeze:freeze", "forbid forward changes until a time"),
            ("note", f"{_C}.freeze:note", "leave a note on anything"),
            ("break-glass", f"{_C}.break_glass:break_glass", "who went past the rules, and who looked at it"),
            ("access", f"{_C}.access:access", "who may what, and why"),
        ),
    ),
    (
        "Make",
        (
            ("pipeline", f"{_C}.pipeline:pipeline", "what makes a release"),
            ("trigger", f"{_C}.trigger:trigger", "what starts a pipeline by itself"),
            ("run", f"{_C}.run:run", "one execution of a pipeline"),
            ("dataset", f"{_C}.dataset:dataset", "data sets; users' feedback made into the next one"),
            ("release", f"{_C}.release:release", "the immutable bundles that roll out"),
            ("registry", f"{_C}.registry:registry", "the model registry, looked at; a version made a release"),
            ("lineage", f"{_C}.lineage:lineage", "where something came from, or what came of it"),
        ),
    ),
    (
        "Watch",
        (
            ("service", f"{_C}.service:service", "the fleet; ask a service something"),
            ("slo", f"{_C}.slo:slo", "objectives, budgets, burn rates"),
            ("alert", f"{_C}.alert:alert", "what is wrong, who looks at it"),
            ("metric", f"{_C}.metric:metric", "ask Prometheus, in PromQL or in words"),
            ("hook", f"{_C}.hook:hook", "who else is told of what happens"),
            ("audit", f"{_C}.audit:audit", "every change and its author"),
        ),
    ),
    (
        "Tools",
        (
            ("serve", f"{_C}.serve:serve", "one model server in the foreground"),
            ("load", f"{_C}.serve:load", "send a service requests"),
            ("export", f"{_C}.export:export", "a model in another program's format"),
            ("bench", f"{_C}.bench:bench", "measure this machine, ours beside the others"),
            ("gateway", f"{_C}.gateway:gateway", "API keys of who may ask"),
            ("config", f"{_C}.workspace:config", "the configuration in effect; apply a change of roles or policies"),
            ("drill", f"{_C}.drill:drill", "failures on purpose, measured and recorded"),
            ("state", f"{_C}.state:state", "check, back up, restore the store"),
            ("completion", f"{_C}.completion:completion", "teach bash, zsh or fish this grammar"),
            ("help", f"{_C}.help:help_", "exit-codes, options, scripts, config, ..."),
        ),
    ),
)

VIEW_WORDS: dict[str, tuple[str, ...]] = {
    "fleet": ("service", "list"),
    "services": ("service", "list"),
    "rollouts": ("rollout", "list"),
    "releases": ("release", "list"),
    "runs": ("run", "list"),
    "pipelines": ("pipeline", "list"),
    "alerts": ("alert", "list"),
    "slos": ("slo", "list"),
    "replicas": ("service", "replicas"),
    "serving": ("service", "replicas"),
    "freezes": ("freeze", "list"),
    "audit": ("audit", "list"),
}
"""One word for a view, as hands type it after `:`; `@ENV` and `/TEXT` behind it narrow it."""


@click.pass_context
def _top(ctx: click.Context, script: str | None, settings: tuple[str, ...], version: bool) -> Any:
    """See and run ML services: what is live, where it came from, how it does; move it forward, bring it back.

    `airboss` alone, on a terminal, opens the console.
    """
    if version:
        return LocalRequest("console.commands.workspace:show_version")
    if script is not None:
        if ctx.invoked_subcommand is not None:
            raise click.UsageError(f"--script FILE takes no command beside it, here {ctx.invoked_subcommand!r}", ctx)
        return LocalRequest("console.script_file:run_script_file", {"source": script, "settings": settings})
    if settings:
        raise click.UsageError(
            "--set here belongs to --script; a pipeline's --set stands behind `pipeline run NAME`", ctx
        )
    if ctx.invoked_subcommand is None:
        return LocalRequest("console.cli:open_console")
    return None


root = Root(
    SECTIONS,
    callback=_top,
    params=[
        click.Option(["--script"], metavar="FILE|-", help="Run the lines of FILE (`airboss help scripts`)."),
        click.Option(["--set", "settings"], multiple=True, metavar="K=V", help="Set a variable of the script."),
        click.Option(["--version"], is_flag=True, help="Print the version."),
    ],
    help=_top.__doc__ or "",
    examples=(
        ("airboss demo", "make a model from text, launch it, advance it, bring a bad one back"),
        ("airboss deploy chat charlm-3 --env production --wait", "roll out, wait for the verdict, exit by it"),
        ("airboss rollback chat --yes", "return to the last good release, now"),
        ("airboss rollouts -o json", "every list as JSON"),
    ),
)


def parse_args(args: Sequence[str]) -> Parsed:
    """Understand a line that is split into words. Raises UsageError, and HelpWanted for `--help`."""
    ctx = None
    try:
        ctx = root.make_context("airboss", spelled_out(args))
        request = root.invoke(ctx)
    except click.exceptions.UsageError as error:
        raise _usage(error) from error
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error
    given = given_options(ctx)
    return Parsed(_with_options(request, given), _options(given), tuple(args))


def split(line: str) -> list[str]:
    """The words of a line, quoted as in a shell. Raises UsageError."""
    try:
        words = shlex.split(line, comments=False)
    except ValueError as error:
        raise UsageError(f"{line!r} cannot be split into words: {error}", hint="close the quotation") from error
    return words[1:] if words and words[0] == "airboss" else words


def spelled_out(words: Sequence[str]) -> list[str]:
    """The words with what stands for several written out."""
    return _bare_waits(_expand(list(words)))


def parse_line(line: str) -> VerbRequest | ViewRequest:
    """Understand a line of the `:` prompt. Raises UsageError, also for what only a shell can do; HelpWanted for --help."""
    words = split(line)
    if not words:
        raise UsageError("an empty line", hint="type a command, for example `rollouts`")
    request = parse_args(words).request
    if isinstance(request, LocalRequest):
        raise UsageError(f"`{words[0]}` does its work in a shell", hint=f"run `airboss {line}` there")
    return request


def _expand(words: list[str]) -> list[str]:
    """`rollouts @production /chat` → `rollout list --env production --filter chat`."""
    if not words or words[0] not in VIEW_WORDS:
        return words
    if words[0] in root.places and len(words) > 1 and words[1][0:1] not in ("@", "/"):
        return words
    rest: list[str] = []
    for word in words[1:]:
        if len(word) > 1 and word[0] == "@":
            rest += ["--env", word[1:]]
        elif len(word) > 1 and word[0] == "/":
            rest += ["--filter", word[1:]]
        else:
            rest.append(word)
    return [*VIEW_WORDS[words[0]], *rest]


def _bare_waits(words: list[str]) -> list[str]:
    """`--wait` alone means `--wait=done`; it never takes the next word, which may be a service's name."""
    end = words.index("--") if "--" in words else len(words)
    return ["--wait=done" if word == "--wait" and at < end else word for at, word in enumerate(words)]


def _options(given: dict[str, Any]) -> Options:
    return Options(**given)


def _with_options(request: Any, given: dict[str, Any]) -> VerbRequest | ViewRequest | LocalRequest:
    """A verb's request carries the options that concern the engine."""
    if isinstance(request, ViewRequest | LocalRequest):
        if given.get("idempotency_key") and not takes_key(request):
            raise UsageError("--idempotency-key belongs to a verb that the engine does", hint="leave it out here")
        return request
    from engine.api.schemas import VerbRequest

    assert isinstance(request, VerbRequest)
    return request.model_copy(
        update={
            "dry_run": bool(given.get("dry_run")) or request.dry_run,
            "yes": bool(given.get("yes")),
            "confirm_name": given.get("confirm_name", ""),
            "reason": given.get("reason", "") or request.reason,
            "expect_revision": given.get("expect_revision"),
            "idempotency_key": given.get("idempotency_key", ""),
        }
    )


def takes_key(request: ViewRequest | LocalRequest) -> bool:
    """What carries a verb of the engine's, or lines of them, takes the key too."""
    return isinstance(request, LocalRequest) and (
        "request" in request.args or request.target == "console.script_file:run_script_file"
    )


def _usage(error: click.exceptions.UsageError) -> AirbossError:
    path = error.ctx.command_path if error.ctx is not None else "airboss"
    message = error.format_message()
    return UsageError(message[:1].lower() + message[1:], hint=f"`{path} --help` shows how")


def duration(text: str) -> float:
    """Seconds of a duration as the grammar writes it. Raises UsageError."""
    try:
        return float(DURATION.convert(text, None, None))
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error
