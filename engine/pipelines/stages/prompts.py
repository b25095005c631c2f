"""Prompt regression for any service: cases with assertions, asked of an OpenAI endpoint or read from a file of answers.

    python -m engine.pipelines.stages.prompts set.toml --url http://127.0.0.1:8080 --model chat --metrics prompts.json --results now.json --before last.json

A case has a `name`, a `prompt`, and one or more of: `exact` (white space at the ends apart), `regex` (found anywhere), `json_schema` (a table, or a
file beside the set), `similar` with `at_least` (0..1, Ratcliff & Obershelp by words), `judge` (a command that gets {"prompt", "answer"} on
stdin and prints {"ok": true}). A judge that says nothing, an answer that is missing: failed. No passes by silence.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from state.words import UsageError

JUDGE_S = 60.0
ASK_S = 120.0
KINDS = ("exact", "regex", "json_schema", "similar", "judge")
_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?```\s*$", re.DOTALL)


class Case(BaseModel):
    """One prompt and what its answer must be. Every assertion that is given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(min_length=1)
    prompt: str
    exact: str | None = None
    regex: str | None = None
    json_schema: dict[str, Any] | str | None = None
    similar: str | None = None
    at_least: float = Field(default=0.8, gt=0, le=1)
    judge: tuple[str, ...] | None = None
    max_tokens: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _asserts(self) -> Case:
        if not any(getattr(self, kind) is not None for kind in KINDS):
            raise ValueError(f"the case {self.name!r} asserts nothing: give one of {', '.join(KINDS)}")
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"the case {self.name!r}: {self.regex!r} is no regular expression: {error}") from None
        return self


class PromptSet(BaseModel):
    """A versioned set of cases; names are unique."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    version: int = Field(ge=1)
    case: tuple[Case, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> PromptSet:
        names = [case.name for case in self.case]
        if len(set(names)) != len(names):
            raise ValueError("two cases have one name")
        return self


@dataclass(frozen=True, slots=True)
class Judged:
    """A case's answer, and which assertions failed with why; None is no answer."""

    name: str
    answer: str | None
    failed: Mapping[str, str]


def read_set(path: Path) -> PromptSet:
    """The set in a TOML file, schemas named by file read from beside it. Raises UsageError."""
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
        for case in body.get("case", ()):
            if isinstance(schema := case.get("json_schema"), str):
                case["json_schema"] = json.loads((path.parent / schema).read_text(encoding="utf-8"))
        return PromptSet.model_validate(body)
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}", code="no_prompts") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {error.errors()[0]['msg']}", code="no_prompts") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}", code="no_prompts") from error


def judge(case: Case, answer: str | None) -> Judged:
    """Hold an answer to every assertion of its case."""
    if answer is None:
        return Judged(case.name, None, {"answer": "there is none"})
    checks: dict[str, Callable[[Case, str], str]] = {
        "exact": _exact, "regex": _regex, "json_schema": _schema, "similar": _similar, "judge": _asked,
    }  # fmt: skip
    found = {kind: check(case, answer) for kind, check in checks.items() if getattr(case, kind) is not None}
    return Judged(case.name, answer, {kind: why for kind, why in found.items() if why})


def _exact(case: Case, answer: str) -> str:
    return "" if answer.strip() == str(case.exact).strip() else f"is not {case.exact!r}"


def _regex(case: Case, answer: str) -> str:
    return "" if re.search(str(case.regex), answer) else f"has nothing like {case.regex!r}"


def _schema(case: Case, answer: str) -> str:
    try:
        import jsonschema
    except ImportError:
        return "no JSON schema can be checked here: `pip install jsonschema`"
    fenced = _FENCE.match(answer)
    try:
        value = json.loads(fenced.group(1) if fenced else answer)
    except ValueError as error:
        return f"is no JSON: {error}"
    assert isinstance(case.json_schema, dict)
    validator = jsonschema.validators.validator_for(case.json_schema)
    try:
        validator.check_schema(case.json_schema)
    except jsonschema.SchemaError as error:
        return f"the schema itself is wrong: {error.message}"
    first = next(validator(case.json_schema).iter_errors(value), None)
    return "" if first is None else f"{first.json_path}: {first.message}"


def _similar(case: Case, answer: str) -> str:
    ratio = difflib.SequenceMatcher(None, str(case.similar).split(), answer.split(), autojunk=False).ratio()
    return "" if ratio >= case.at_least else f"is {ratio:.2f} like it, at least {case.at_least:g} is wanted"


def _asked(case: Case, answer: str) -> str:
    assert case.judge is not None
    question = json.dumps({"prompt": case.prompt, "answer": answer})
    try:
        done = subprocess.run(case.judge, input=question, capture_output=True, text=True, timeout=JUDGE_S, check=False)
        said = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"the judge gave no word: {type(error).__name__}"
    if not isinstance(said, dict) or not isinstance(said.get("ok"), bool):
        return f"the judge gave no word (exit {done.returncode})"
    return "" if said["ok"] else f"the judge says no: {str(said.get('reason', ''))[:200]}"


def ask(url: str, model: str, case: Case) -> str | None:
    """The service's greedy answer by `/v1/completions`. None when it gives none. Blocks."""
    import httpx

    body = {"model": model, "prompt": case.prompt, "max_tokens": case.max_tokens, "temperature": 0}
    try:
        said = httpx.post(f"{url.rstrip('/')}/v1/completions", json=body, timeout=ASK_S).raise_for_status().json()
        return str(said["choices"][0]["text"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
        return None


def metrics_of(judged: Sequence[Judged], before: Mapping[str, bool] | None) -> dict[str, float]:
    """Counts for gates: `failed`, by kind too, and `regressions`: cases that passed before and fail now (without a before, none is known)."""
    found: dict[str, float] = {"cases": len(judged), "failed": sum(bool(one.failed) for one in judged)}
    for kind in ("answer", *KINDS):
        found[f"failed_{kind}"] = sum(kind in one.failed for one in judged)
    if before is not None:
        found["regressions"] = sum(bool(one.failed) and before.get(one.name, False) for one in judged)
    return found


def main(words: Sequence[str]) -> int:
    """Judge every case and write metrics (for gates) and results. Exits 1 when the set or the answers cannot be read; gates decide the rest."""
    parser = argparse.ArgumentParser(prog="prompts", description=main.__doc__)
    parser.add_argument("set", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="An OpenAI endpoint, the gateway's for one.")
    source.add_argument("--answers", type=Path, help='JSON, {"case name": "answer"}.')
    parser.add_argument("--model", default="", help="The service to ask, with --url.")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="Where every answer and what failed is written.")
    parser.add_argument(
        "--before", type=Path, help="Results of the last version, to count regressions; may be missing."
    )
    options = parser.parse_args(words)
    try:
        cases = read_set(options.set)
        given = _json(options.answers) if options.answers else None
        before = _json(options.before) if options.before and options.before.exists() else None
    except UsageError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    judged = [
        judge(case, given.get(case.name) if given is not None else ask(options.url, options.model, case))
        for case in cases.case
    ]
    passed = {one["name"]: not one["failed"] for one in before["cases"]} if before is not None else None
    options.metrics.write_text(json.dumps(metrics_of(judged, passed)) + "\n", encoding="utf-8")
    if options.results:
        body = {
            "set": f"{cases.name}/{cases.version}",
            "cases": [{"name": j.name, "answer": j.answer, "failed": dict(j.failed)} for j in judged],
        }
        options.results.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for one in judged:
        for kind, why in one.failed.items():
            sys.stdout.write(f"{one.name}: {kind}: {why}\n")
    return 0


def _json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", code="no_prompts") from error
    if not isinstance(body, dict):
        raise UsageError(f"{path} is no JSON object", code="no_prompts")
    return body


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
