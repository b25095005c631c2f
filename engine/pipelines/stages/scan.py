"""Stage `scan`: what scanners of dependencies and images found, as evidence for gates. The scanners themselves run before it.

Reads SARIF 2.1.0 (Trivy, Grype, CodeQL, …), Trivy's JSON and pip-audit's JSON. As a stage of one's own, `entry =
"engine.pipelines.stages.scan:run"` with the reports as `deps`; in a command, `python -m engine.pipelines.stages.scan REPORT… --metrics FILE`.
Writes `findings.json`. A report that is missing, or none of the three, fails the stage: what was not scanned is not clean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.pipelines.stage import Gate, StageContext, StageResult
from engine.pipelines.stages.settings import write_facts
from state.words import UsageError

FINDINGS = "findings.json"
SEVERITIES = ("critical", "high", "medium", "low", "unrated")
"""pip-audit rates nothing: what it finds is `unrated`, and weighs as high."""
_BY_SCORE = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.0, "low"))
_BY_LEVEL = {"error": "high", "warning": "medium", "note": "low", "none": "low"}
_DEP = "dep:"


@dataclass(frozen=True, slots=True)
class Finding:
    """One weakness: its id (CVE, GHSA, PYSEC or the scanner's own), severity, what has it, and the version that has it no more."""

    id: str
    severity: str
    package: str
    version: str = ""
    fixed_in: str = ""


def run(ctx: StageContext) -> StageResult:
    """Read every report. Raises UsageError for one that is missing or no report."""
    workspace = Path(str(ctx.context.get("workspace") or "."))
    reports = [workspace / str(value) for name, value in sorted(ctx.params.items()) if name.startswith(_DEP)]
    if not reports:
        raise UsageError(
            "the scan has no report to read", hint='deps = ["audit.json", "trivy.sarif"]', code="no_report"
        )
    found = read_reports(reports)
    write_facts(ctx.out_dir / FINDINGS, {"reports": [r.name for r in reports], "findings": [asdict(f) for f in found]})
    counts = metrics_of(found)
    ctx.progress(**counts)
    return StageResult(
        counts,
        gates=(
            Gate("critical", counts["critical"], 0, "<="),
            Gate("high", counts["high"] + counts["unrated"], 0, "<="),
            Gate("medium", counts["medium"], 0, "<=", blocking=False),
        ),
    )


def metrics_of(found: Iterable[Finding]) -> dict[str, float]:
    """How many of each severity; one weakness in one package counts once, whoever found it."""
    worst: dict[tuple[str, str], str] = {}
    for one in found:
        key = (one.id, one.package)
        if key not in worst or SEVERITIES.index(one.severity) < SEVERITIES.index(worst[key]):
            worst[key] = one.severity
    counts = Counter(worst.values())
    return {severity: float(counts[severity]) for severity in SEVERITIES}


def read_reports(paths: Sequence[Path]) -> list[Finding]:
    """The findings of all reports. Raises UsageError."""
    return [finding for path in paths for finding in _read(path)]


def _read(path: Path) -> list[Finding]:
    try:
        body = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(
            f"the scan's report {path} cannot be read: {error.strerror}", hint="did the scanner run?", code="no_report"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{path} is no JSON: {error}", hint="SARIF, or the JSON of Trivy or pip-audit", code="no_report"
        ) from error
    try:
        if isinstance(body, dict) and isinstance(body.get("runs"), list) and body["runs"]:
            return list(_sarif(body["runs"]))
        if isinstance(body, dict) and "SchemaVersion" in body and "ArtifactName" in body:
            return list(_trivy(body.get("Results") or ()))
        if isinstance(body, dict) and isinstance(body.get("dependencies"), list):
            return list(_pip_audit(body["dependencies"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} is not as its format has it: {type(error).__name__}: {error}", code="no_report"
        ) from error
    raise UsageError(
        f"{path} is no report that is known", hint="SARIF, or the JSON of Trivy or pip-audit", code="no_report"
    )


def _sarif(runs: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    for one in runs:
        tool = one["tool"]
        parts = [tool["driver"], *(tool.get("extensions") or ())]
        rules = {rule["id"]: rule for part in parts for rule in part.get("rules") or ()}
        for result in one.get("results") or ():
            if result.get("suppressions") or result.get("kind", "fail") != "fail":
                continue
            rule_id = str(result.get("ruleId") or (result.get("rule") or {}).get("id") or "")
            rule = rules.get(rule_id, {})
            properties = {**(rule.get("properties") or {}), **(result.get("properties") or {})}
            level = result.get("level") or (rule.get("defaultConfiguration") or {}).get("level") or "warning"
            score = properties.get("security-severity")
            severity = _BY_LEVEL.get(level, "unrated") if score is None else _by_score(float(score))
            yield Finding(rule_id or "unnamed", severity, _place(result))


def _by_score(score: float) -> str:
    return next((name for least, name in _BY_SCORE if score >= least), "unrated")  # NaN is above nothing


def _place(result: Mapping[str, Any]) -> str:
    for location in result.get("locations") or ():
        artifact = (location.get("physicalLocation") or {}).get("artifactLocation") or {}
        if artifact.get("uri"):
            return str(artifact["uri"])
    return ""


def _trivy(results: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    for one in results:
        for weak in one.get("Vulnerabilities") or ():
            yield Finding(
                str(weak["VulnerabilityID"]), _named(weak.get("Severity")), str(weak.get("PkgName", "")),
                str(weak.get("InstalledVersion", "")), str(weak.get("FixedVersion", "")),
            )  # fmt: skip
        for secret in one.get("Secrets") or ():
            yield Finding(str(secret["RuleID"]), _named(secret.get("Severity")), str(one.get("Target", "")))
        for wrong in one.get("Misconfigurations") or ():
            if wrong.get("Status", "FAIL") == "FAIL":
                yield Finding(str(wrong["ID"]), _named(wrong.get("Severity")), str(one.get("Target", "")))


def _named(severity: object) -> str:
    name = str(severity or "").lower()
    return name if name in SEVERITIES else "unrated"


def _pip_audit(dependencies: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    for one in dependencies:
        name = str(one["name"])
        if one.get("skip_reason"):
            yield Finding("not-audited", "medium", name)  # nobody knows: said, and no stop by itself
        for weak in one.get("vulns") or ():
            fixed = ", ".join(map(str, weak.get("fix_versions") or ()))
            yield Finding(str(weak["id"]), "unrated", name, str(one.get("version", "")), fixed)


def main(words: Sequence[str]) -> int:
    """`python -m engine.pipelines.stages.scan REPORT… --metrics FILE`: for a stage that is a command. Exits 1 for an unread report."""
    parser = argparse.ArgumentParser(prog="scan", description=main.__doc__)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--metrics", type=Path, required=True)
    options = parser.parse_args(words)
    try:
        counts = metrics_of(read_reports(options.reports))
    except UsageError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    options.metrics.write_text(json.dumps(counts) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
