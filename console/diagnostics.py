"""Owner of stderr and of the exit code: progress, notes, errors, signals, broken pipes."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from state.words import AirbossError, ExitCode

PROG = "airboss"


class Stopped(BaseException):
    """A signal asked the process to end."""

    def __init__(self, exit: ExitCode) -> None:
        super().__init__(exit.name)
        self.exit = exit


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while something was waited for; `left` says what goes on without us."""

    def __init__(self, left: str) -> None:
        super().__init__(left)
        self.left = left


def say(text: str) -> None:
    """A line for the person: a note, a step of progress."""
    try:
        sys.stderr.write(text.rstrip("\n") + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        # Nobody reads stderr any more; the work and stdout go on.
        return


def note(text: str) -> None:
    """Something to know that is no error."""
    say(f"{PROG}: {text}")


def report(error: AirbossError, *, as_json: bool) -> None:
    """The error on stderr: one line and its hint, or one JSON object."""
    if as_json:
        say(json.dumps({"error": error.as_dict()}))
        return
    for line in error.message.splitlines() or [""]:
        say(f"{PROG}: error: {line}")
    if error.hint:
        say(f"  {error.hint}")


def wants_json(argv: Sequence[str]) -> bool:
    """`-o json` stands somewhere on the line. Asked of the raw words, as the line itself may be what is wrong."""
    for at, word in enumerate(argv):
        if word in ("-ojson", "-o=json", "--output=json"):
            return True
        if word in ("-o", "--output") and at + 1 < len(argv) and argv[at + 1] == "json":
            return True
    return False


def catch_signals() -> None:
    """Let TERM and HUP end the process by its own exit codes; a signal that is ignored (nohup) stays so."""
    for number, code in ((signal.SIGTERM, ExitCode.TERM), (signal.SIGHUP, ExitCode.HUP)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stopper(code))


def _stopper(code: ExitCode) -> Callable[[int, FrameType | None], None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stopped(code)

    return stop


def run_to_exit(body: Callable[[], int], *, as_json: bool) -> NoReturn:
    """Run `body` and leave the process with its code, or with the code of what went wrong. Never returns."""
    sys.exit(_finish(_guarded(body, as_json)))


def _guarded(body: Callable[[], int], as_json: bool) -> int:
    try:
        return int(body())
    except AirbossError as error:
        report(error, as_json=as_json)
        return int(error.exit)
    except BrokenPipeError:
        return int(ExitCode.PIPE)
    except Interrupted as interrupt:
        say("")
        note(interrupt.left)
        return int(ExitCode.INT)
    except KeyboardInterrupt:
        return int(ExitCode.INT)
    except Stopped as stopped:
        return int(stopped.exit)
    except Exception as error:
        if os.environ.get("AIRBOSS_DEBUG"):
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        fault = AirbossError(
            f"a fault of {PROG} itself at {place}: {type(error).__name__}: {error}",
            hint="run it again with AIRBOSS_DEBUG=1 and report what it prints",
            code="internal",
        )
        report(fault, as_json=as_json)
        return int(ExitCode.FAILED)


def _finish(code: int) -> int:
    """Flush stdout; nobody reading it is quiet, a disk that is full under it is not."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = int(ExitCode.PIPE)
    except OSError as error:
        say(f"{PROG}: error: stdout could not be written: {error.strerror}")
        code = code or int(ExitCode.FAILED)
    if code == ExitCode.PIPE:
        # Python flushes once more at exit and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
