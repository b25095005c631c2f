"""The property tests' own modules are found beside them: test files are not a package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
