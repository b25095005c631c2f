"""Scanners' reports as gate evidence: three formats, one count, and what is not read is not clean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.pipelines.stage import StageContext, StageResult
from engine.pipelines.stages import scan
from state.words import UsageError

PIP_AUDIT = {
    "dependencies": [
        {"name": "flask", "version": "0.5", "vulns": [{"id": "PYSEC-2019-179", "fix_versions": ["1.0"], "aliases": ["CVE-2019-1010083"]}]},
        {"name": "mine", "skip_reason": "not on PyPI"},
        {"name": "click", "version": "8.1.7", "vulns": []},
    ],
    "fixes": [],
}  # fmt: skip
TRIVY = {
    "SchemaVersion": 2,
    "ArtifactName": "chat:3",
    "Results": [
        {"Target": "debian", "Vulnerabilities": [
            {"VulnerabilityID": "CVE-1", "PkgName": "openssl", "InstalledVersion": "3.0", "FixedVersion": "3.1", "Severity": "CRITICAL"},
            {"VulnerabilityID": "CVE-2", "PkgName": "zlib", "InstalledVersion": "1", "Severity": "LOW"}]},
        {"Target": "Dockerfile", "Misconfigurations": [{"ID": "DS002", "Severity": "HIGH", "Status": "FAIL"}, {"ID": "DS003", "Severity": "HIGH", "Status": "PASS"}]},
    ],
}  # fmt: skip
SARIF = {
    "version": "2.1.0",
    "runs": [{
        "tool": {"driver": {"name": "Trivy", "rules": [
            {"id": "CVE-1", "properties": {"security-severity": "9.8"}},
            {"id": "CVE-3", "properties": {"security-severity": "5.5"}},
            {"id": "R4", "defaultConfiguration": {"level": "note"}}]}},
        "results": [
            {"ruleId": "CVE-1", "level": "error", "locations": [{"physicalLocation": {"artifactLocation": {"uri": "openssl"}}}]},
            {"ruleId": "CVE-3", "level": "warning"},
            {"ruleId": "R4"},
            {"ruleId": "R5", "level": "error", "suppressions": [{"kind": "external"}]},
            {"ruleId": "R6", "level": "error", "kind": "pass"}],
    }],
}  # fmt: skip


def ran(tmp_path: Path, **reports: Any) -> StageResult:
    for name, body in reports.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(body))
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    params = {f"dep:{name}.json": f"{name}.json" for name in reports}
    return scan.run(StageContext("run-1", "scan", params, {}, out, None, {"workspace": str(tmp_path)}))


@pytest.mark.parametrize(
    ("report", "counts", "refused"),
    [
        (PIP_AUDIT, {"unrated": 1, "medium": 1}, ["high"]),
        (TRIVY, {"critical": 1, "high": 1, "low": 1}, ["critical", "high"]),
        (SARIF, {"critical": 1, "medium": 1, "low": 1}, ["critical"]),
        ({"runs": [{"tool": {"driver": {"name": "Trivy"}}, "results": []}]}, {}, []),
        ({"dependencies": [{"name": "click", "version": "8", "vulns": []}]}, {}, []),
        ({**TRIVY, "Results": None}, {}, []),
    ],
)
def test_a_report_of_each_format_opens_or_shuts_the_gate(
    tmp_path: Path, report: Any, counts: dict[str, int], refused: list[str]
) -> None:
    result = ran(tmp_path, report=report)
    assert result.metrics == {name: counts.get(name, 0) for name in scan.SEVERITIES}
    assert [gate.name for gate in result.refused_by] == refused


def test_one_weakness_that_two_scanners_find_counts_once(tmp_path: Path) -> None:
    result = ran(tmp_path, a=TRIVY, b=SARIF)
    assert result.metrics["critical"] == 1
    kept = json.loads((tmp_path / "out" / scan.FINDINGS).read_text())
    assert {"id": "CVE-1", "severity": "critical", "package": "openssl", "version": "3.0", "fixed_in": "3.1"} in kept[
        "findings"
    ]


@pytest.mark.parametrize("body", [{}, [], {"runs": []}, {"dependencies": [{}]}, {"runs": [{"results": []}]}, "x"])
def test_what_is_no_report_is_never_clean(tmp_path: Path, body: Any) -> None:
    with pytest.raises(UsageError):
        ran(tmp_path, report=body)


def test_a_missing_report_fails_the_stage_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no report to read"):
        ran(tmp_path)
    metrics = tmp_path / "scan.json"
    assert scan.main([str(tmp_path / "none.json"), "--metrics", str(metrics)]) == 1
    assert "cannot be read" in capsys.readouterr().err and not metrics.exists()
    (tmp_path / "audit.json").write_text(json.dumps(PIP_AUDIT))
    assert scan.main([str(tmp_path / "audit.json"), "--metrics", str(metrics)]) == 0
    assert json.loads(metrics.read_text())["unrated"] == 1
