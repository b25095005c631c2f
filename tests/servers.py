"""Programs from the distribution's packages that some tests drive: skipped where absent, failed where CI demands them."""

from __future__ import annotations

import os
import shutil

import pytest

from adapters.local.haproxy.runtime import APT_LINE


def lacks_haproxy() -> bool:
    """No HAProxy is here, and its absence may be passed over: with AIRBOSS_REQUIRE_SERVERS=1 the tests run and fail."""
    return shutil.which("haproxy") is None and os.environ.get("AIRBOSS_REQUIRE_SERVERS") != "1"


NO_HAPROXY = f"no haproxy here: {APT_LINE}"
needs_haproxy = pytest.mark.skipif(lacks_haproxy(), reason=NO_HAPROXY)
