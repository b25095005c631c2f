"""tests/CASES.md names a test, or a reason, for every numbered failure case; here it is held to the tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROW = re.compile(r"\| (\d+) \| (.+?) \| (.+) \|")
REASONS = ("not local: ", "not yet: ")


def rows() -> list[tuple[int, str]]:
    found = map(ROW.fullmatch, (TESTS / "CASES.md").read_text(encoding="utf-8").splitlines())
    return [(int(match[1]), match[3]) for match in found if match]


def test_every_case_has_its_row_in_order() -> None:
    assert [number for number, _ in rows()] == list(range(1, 73))


def test_every_row_names_tests_that_are_there_or_a_reason() -> None:
    missing = []
    for number, told in rows():
        if told.startswith(REASONS):
            continue
        for one in told.split(", "):
            path, _, name = one.partition("::")
            source = (TESTS / path).read_text(encoding="utf-8") if (TESTS / path).is_file() else ""
            if not re.search(rf"^(async )?def {name}\(", source, re.MULTILINE):
                missing.append(f"{number}: {one}")
    assert not missing
