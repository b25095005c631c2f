"""A script's run as a JUnit XML report: one test case a line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from console.output import visible
from state.words import AirbossError, ExitCode

_FAILURES = frozenset({ExitCode.FAILED, ExitCode.TIMEOUT, ExitCode.WAITING, ExitCode.GATE})
"""What was tried and did not come out; every other error is one of the attempt itself."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line that was, or was not, played: its name, the seconds it took, and why it did not go well."""

    name: str
    seconds: float = 0.0
    error: AirbossError | None = None
    exit: ExitCode = ExitCode.OK
    is_skipped: bool = False


def report(cases: Sequence[Case]) -> str:
    """The XML document of these lines, in their order."""
    bad = [case for case in cases if case.exit != ExitCode.OK]
    failures = sum(case.exit in _FAILURES for case in bad)
    counts = {
        "tests": str(len(cases)),
        "failures": str(failures),
        "errors": str(len(bad) - failures),
        "skipped": str(sum(case.is_skipped for case in cases)),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }
    suites = ElementTree.Element("testsuites", {"name": "airboss", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "airboss script", **counts})
    for case in cases:
        one = ElementTree.SubElement(
            suite,
            "testcase",
            {"classname": "airboss.script", "name": visible(case.name), "time": f"{case.seconds:.3f}"},
        )
        if case.is_skipped:
            ElementTree.SubElement(one, "skipped")
        elif case.exit != ExitCode.OK:
            _add_fault(one, case)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _add_fault(parent: ElementTree.Element, case: Case) -> None:
    kind = "failure" if case.exit in _FAILURES else "error"
    message = visible(case.error.message, multiline=True) if case.error else f"exit {int(case.exit)}"
    code = case.error.code if case.error else case.exit.name.lower()
    fault = ElementTree.SubElement(parent, kind, {"type": code, "message": message})
    fault.text = f"exit {int(case.exit)}: {message}"
    if case.error and case.error.hint:
        fault.text += f"\n{visible(case.error.hint, multiline=True)}"
