"""For every test: torch's threads sleep when they wait, and there is one of them, so that tests side by side do not starve."""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

# A suite started in the background of a script has SIGINT ignored, and every program it starts would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Helpers that tests of several kinds share stand beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from kube.fixtures import kube, kube_client, kubeconfig  # noqa: F401
