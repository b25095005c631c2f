"""What the README shows of automation is in the grammar. tests/chaos/test_chaos_readme.py plays it on a living engine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from console.commands.grammar import Options, parse_args
from console.commands.script_lines import read
from console.script import Script

TEXT = (
    (Path(__file__).parents[2] / "README.md")
    .read_text(encoding="utf-8")
    .partition("## Automation")[2]
    .partition("\n## ")[0]
)
SCRIPT, SHELL = re.findall(r"```(?:sh)?\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_script_has_nothing_wrong_in_a_protected_environment() -> None:
    Script(read(SCRIPT), Options(), {"REL": "charlm-3"}).check(lambda env: True)


def test_the_job_is_shell_and_calls_the_script_as_the_grammar_has_it() -> None:
    assert subprocess.run(["bash", "-n", "-c", SHELL], check=False).returncode == 0
    words = re.search(r"airboss (--script .*?) >", SHELL)
    assert words is not None
    options = parse_args(words.group(1).replace('"', "").split()).options
    assert (options.output, options.timeout_s, options.idempotency_key) == ("json", 2400.0, "$JOB")
