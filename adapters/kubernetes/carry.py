"""Files to and from an object store, by content. Runs in the engine's host and, sent as text, in a Job's pod: python3 and fsspec alone.

STORE/files/<sha256>     every file once
STORE/works/<name>.json  what lies where: [[path, sha256, size, mode], …]
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any


def open_store(url: str) -> tuple[Any, str]:
    """(file system, path of the store's root there). Raises ImportError when the URL's protocol has no package here."""
    import fsspec

    fs, base = fsspec.core.url_to_fs(url)
    return fs, str(base)


def listed(root: str, paths: Sequence[str], may_miss: Sequence[str] = ()) -> list[str]:
    """Every plain file at or below `paths`, sorted. Raises FileNotFoundError, and ValueError for a symbolic link."""
    found: list[str] = []
    for path in (*paths, *may_miss):
        place = os.path.join(root, path)
        if os.path.islink(place):
            raise ValueError(path + " is a symbolic link: what it points at could change unseen")
        if os.path.isfile(place):
            found.append(path)
        elif os.path.isdir(place):
            for here, folders, names in os.walk(place):
                for name in folders + names:
                    if os.path.islink(os.path.join(here, name)):
                        raise ValueError(os.path.join(here, name) + " is a symbolic link")
                found += [os.path.relpath(os.path.join(here, name), root) for name in names]
        elif path not in may_miss:
            raise FileNotFoundError(path + " is not there")
    return sorted(set(found))


def sha256_of(place: str) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(place, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def put(root: str, url: str, name: str, paths: Sequence[str], may_miss: Sequence[str] = ()) -> None:
    """Store the files below `root` as the work `name`; what is there already is not sent again."""
    fs, base = open_store(url)
    fs.makedirs(base + "/files", exist_ok=True)
    fs.makedirs(base + "/works", exist_ok=True)
    rows = []
    for path in listed(root, paths, may_miss):
        place = os.path.join(root, path)
        size, sha256 = os.path.getsize(place), sha256_of(place)
        blob = base + "/files/" + sha256
        if not (fs.exists(blob) and fs.size(blob) == size):
            fs.put_file(place, blob)
        rows.append([path, sha256, size, os.stat(place).st_mode & 0o777])
    with fs.open(base + "/works/" + name + ".json", "w") as file:
        json.dump(rows, file)


def get(root: str, url: str, name: str) -> None:
    """Have the work's files below `root`, each verified before it takes its place. Raises ValueError for other bytes than were stored."""
    fs, base = open_store(url)
    with fs.open(base + "/works/" + name + ".json", "r") as file:
        rows = json.load(file)
    for path, sha256, _size, mode in rows:
        place = os.path.join(root, path)
        if os.path.isabs(path) or ".." in path.split("/"):
            raise ValueError(path + " leads out of the place")
        os.makedirs(os.path.dirname(place) or ".", exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=os.path.dirname(place) or ".")
        os.close(handle)
        fs.get_file(base + "/files/" + sha256, aside)
        if sha256_of(aside) != sha256:
            os.unlink(aside)
            raise ValueError(path + " came with other bytes than were stored")
        os.chmod(aside, mode)
        os.replace(aside, place)


if __name__ == "__main__":
    verb, root, url, name, rest = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:]
    if verb == "get":
        get(root, url, name)
    else:
        middle = rest.index("--")
        put(root, url, name, rest[:middle], rest[middle + 1 :])
