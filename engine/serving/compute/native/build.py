"""The C files here as a shared library: compiled once for each processor, by the C compiler that is at hand; or not at all.

A server needs no compiler. Where there is one (`$CC`, else `cc`), the first start takes a few seconds longer, and what was
made is kept under `$XDG_CACHE_HOME/airboss/kernels` by the digest of all it was made from.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

log = logging.getLogger("airboss.kernels")
_HERE = Path(__file__).parent
SOURCES = tuple(_HERE / name for name in ("products.c", "attention.c"))
_HEADER = _HERE / "vectors.h"
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC", "-fopenmp")
_COMPILE_S = 120.0


def built() -> Path | None:
    """The library's path. None where no compiler is, or where it cannot make this, or nothing can be kept; the log says why."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return None
    try:
        folder = _cache_directory()
        path = folder / f"{_digest(compiler)}.so"
        if not path.exists():
            _compile(compiler, path)
        _refuse_others(path)
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        # RuntimeError: a user without a home. Whatever it was, torch's own products are there.
        log.warning("no compiled kernels, torch computes: %s", _why(error))
        return None
    return path


def _why(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
    last = (said or b"").decode(errors="replace").strip()[-500:]
    return f"{error}{': ' if last else ''}{last}"


def _compile(compiler: str, path: Path) -> None:
    """Compile aside and move into place: replicas that start together make the same file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        made = Path(aside) / path.name
        subprocess.run(
            [compiler, *_FLAGS, "-o", str(made), *map(str, SOURCES), "-lm"],
            check=True, timeout=_COMPILE_S, stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        made.chmod(0o700)  # whatever the umask says: one that lets the group write would make it nobody's to load
        with made.open("rb") as file:
            os.fsync(file.fileno())  # its name must not outlive a power cut that its content does not
        made.replace(path)


def _cache_directory() -> Path:
    """Where libraries are kept. Raises OSError, RuntimeError."""
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (stated if stated.is_absolute() else Path.home() / ".cache") / "airboss" / "kernels"
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    _refuse_others(
        folder
    )  # before anything is written there: what root makes in a user's directory is of no use to them
    return folder


def _refuse_others(path: Path) -> None:
    """Raises PermissionError where somebody else can have written it, or can exchange it: it runs as this user."""
    for entry in (path, path.parent):
        found = entry.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise PermissionError(f"{entry} is not this user's alone (chmod go-w, chown, or another XDG_CACHE_HOME)")


def _digest(compiler: str) -> str:
    """Of the source, the flags, the compiler and the processor: -march=native makes code for this one alone."""
    stat = Path(compiler).resolve().stat()
    made_from = (_FLAGS, compiler, stat.st_size, stat.st_mtime_ns, platform.machine(), _processor())
    text = b"".join(file.read_bytes() for file in (*SOURCES, _HEADER))
    return hashlib.sha256(text + repr(made_from).encode()).hexdigest()[:24]


def _processor() -> str:
    """What /proc/cpuinfo says of the first core, its frequency apart."""
    first = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split("\n\n")[0]
    return "\n".join(line for line in first.splitlines() if not line.startswith(("cpu MHz", "bogomips", "BogoMIPS")))
