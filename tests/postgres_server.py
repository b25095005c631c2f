"""A PostgreSQL of the tests' own, from Debian's package: one cluster a test session, a database a test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg
import pytest

APT_LINE = "apt-get install postgresql"
NO_POSTGRES = f"no PostgreSQL server here: {APT_LINE}"


def programs() -> Path | None:
    """Where the newest server's programs are; Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("pg_ctl")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def lacks_postgres() -> bool:
    """No server is here, and its absence may be passed over: with AIRBOSS_REQUIRE_SERVERS=1 the tests run and fail."""
    return programs() is None and os.environ.get("AIRBOSS_REQUIRE_SERVERS") != "1"


needs_postgres = pytest.mark.skipif(lacks_postgres(), reason=NO_POSTGRES)


class PostgresServer:
    """A cluster in a directory of its own, on a port of its own. It refuses root, so that root's tests run it as `postgres`."""

    def __init__(self) -> None:
        place = programs()
        assert place is not None, NO_POSTGRES
        self._bin = place
        self.root = Path(tempfile.mkdtemp(prefix="airboss-pg-", dir="/tmp"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.root, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", str(self.root / "data"), "-U", "airboss", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-p {self.port} -k {self.root} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60"
        self._run("pg_ctl", "-D", str(self.root / "data"), "-l", str(self.root / "log"), "-o", options, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        """End it: `fast` cuts every connection, `immediate` is as a power cut."""
        self._run("pg_ctl", "-D", str(self.root / "data"), "-m", mode, "-w", "stop")

    def database(self, encoding: str = "UTF8") -> str:
        """The address of a new, empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(
                f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        return self.url(name)

    def url(self, database: str) -> str:
        """The address of a database."""
        return f"postgresql://airboss@127.0.0.1:{self.port}/{database}"

    def close(self) -> None:
        """Stop it, remove it."""
        subprocess.run(self._as_owner("pg_ctl", "-D", str(self.root / "data"), "-m", "immediate", "stop"), check=False,
                       capture_output=True, timeout=30, cwd="/")  # fmt: skip
        shutil.rmtree(self.root, ignore_errors=True)

    def _run(self, program: str, *options: str) -> None:
        # The server inherits what it is given: a pipe would be held open by it for as long as it lives.
        with (self.root.parent / f"{self.root.name}.out").open("w+b") as out:
            ran = subprocess.run(self._as_owner(program, *options), stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                                 timeout=60, cwd="/")  # fmt: skip
            out.seek(0)
            assert ran.returncode == 0, out.read().decode(errors="replace")
        Path(out.name).unlink(missing_ok=True)

    def _as_owner(self, program: str, *options: str) -> list[str]:
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        return [*become, str(self._bin / program), *options]
