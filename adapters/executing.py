"""The port StageExecutor: where the commands of a pipeline's stage run. And the values that cross it.

It is called in the stage's own process, which holds the locks of the paths and outlives the engine; so its calls block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from state.words import OperationFailed


class CommandFailed(OperationFailed):
    """The command did not do it. It is tried again as often as the stage says."""

    code = "command_failed"
    retryable = True


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage wants run: shell commands in order, below `root`, the first that fails ending it.

    `takes` and `gives` are paths below `root` that the commands read and write; those of `may_give` may be missing, those of `keeps` are there from the last time and go on from that. `run_id`, `stage`,
    `key` and `attempt` say whose it is: work of the same run, stage and key that is still going on is gone on with.
    """

    run_id: str
    stage: str
    key: str
    attempt: int
    root: Path
    cwd: str
    commands: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    may_give: tuple[str, ...] = ()
    timeout_s: float = 3600.0


class StageExecutor(Protocol):
    """Where a stage's commands run. Both implementations pass tests/integration/test_executors.py."""

    def run(self, work: Work, clean: Callable[[], None]) -> None:
        """Run it to its end, its words coming on this process's standard output as they are said.

        `clean` makes the place ready; it is called before the commands begin, not when they are found going on. On return the
        commands have ended well and what they gave is below `root`. SIGTERM to this process ends them too.
        Raises CommandFailed quoting the exit code, or what killed it; Denied, Unreachable.
        """
