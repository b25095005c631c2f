"""`airboss gateway key`, as a person and a script use it."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import Any

from state.key_file import add_key, digest_of, make_key, read_keys
from state.paths import Paths


def test_a_key_is_shown_once_and_kept_by_digest(workspace: Paths, airboss: Callable[..., Any]) -> None:
    made = airboss("gateway", "key", "add", "ci", "--tenant", "acme", "--class", "batch", "--service", "chat",
                   "--expires", "90d", "--rpm", "60")  # fmt: skip
    assert made.code == 0, made.err
    secret = made.out.strip()
    assert secret.startswith("ab-") and "shown once" in made.err and "mode is 'none'" in made.err
    path = workspace.root / "airboss-keys.toml"
    (key,) = read_keys(path)
    assert key.sha256 == digest_of(secret) and secret not in path.read_text()
    assert (key.tenant, key.request_class, key.services, key.requests_per_minute) == ("acme", "batch", ("chat",), 60)
    assert key.created_by == getpass.getuser()
    listed = airboss("gateway", "key", "list", "-o", "json")
    assert listed.json["items"][0]["name"] == "ci" and key.sha256 not in listed.out


def test_a_name_is_taken_once_and_a_word_that_cannot_be_a_header_is_refused(
    workspace: Paths, airboss: Callable[..., Any]
) -> None:
    add_key(workspace.root / "airboss-keys.toml", make_key("ci").key)
    again = airboss("gateway", "key", "add", "ci")
    assert (again.code, "revoke" in again.err) == (6, True)
    assert airboss("gateway", "key", "add", "two words").code == 2
    assert [key.name for key in read_keys(workspace.root / "airboss-keys.toml")] == ["ci"]


def test_revoking_must_be_confirmed_and_is_refused_where_nothing_may_change(
    workspace: Paths, airboss: Callable[..., Any]
) -> None:
    path = workspace.root / "airboss-keys.toml"
    assert "would" in airboss("gateway", "key", "add", "ci", "--dry-run").out and not path.exists()
    add_key(path, make_key("ci").key)
    assert airboss("gateway", "key", "revoke", "ci").code == 2
    assert airboss("gateway", "key", "revoke", "ci", "--yes", "--read-only").code == 7
    assert len(read_keys(path)) == 1
    assert airboss("gateway", "key", "revoke", "ci", "--yes").code == 0
    assert read_keys(path) == ()
