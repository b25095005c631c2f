"""The property tests' own modules are found beside them: test files are not a package. Their store is made once a file."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engine_room import make_template

from state.store import Store


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    # In memory where there is such a place: the sweep makes thousands of commits. One store for all: `begin_anew`.
    home = Path(tempfile.mkdtemp(prefix="ab-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    make_template(home / "template.db")
    shutil.copy(home / "template.db", home / "state.db")
    there = Store(home / "state.db")
    yield there
    there.close()
    shutil.rmtree(home)
