"""The file of keys, and the ring that a worker looks keys up in."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.gateway.access.identity import Identity
from engine.gateway.access.keyring import Keyring
from engine.gateway.access.watched import LOOK_EVERY_S, Watched
from state.access_config import RateLimit
from state.key_file import ApiKey, add_key, keys_text, make_key, parse_keys, read_keys, revoke_key
from state.secret import env_names, read_secret
from state.words import Conflict, UsageError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,20}", fullmatch=True)


@given(
    st.lists(
        st.builds(
            lambda name, tenant, services, rpm, expires: (
                make_key(name, tenant=tenant, services=services, requests_per_minute=rpm, expires=expires).key
            ),
            NAMES,
            st.just("") | NAMES,
            st.lists(st.text(max_size=8).filter(str.isprintable), max_size=3),
            st.none() | st.integers(0, 10**9),
            st.none() | st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
        ),
        max_size=5,
        unique_by=lambda key: key.name,
    )
)
def test_what_is_written_is_what_is_read(keys: list[ApiKey]) -> None:
    assert parse_keys(keys_text(tuple(keys)), Path("keys.toml")) == tuple(keys)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[[key]]\nname = 'a'", "sha256"),
        ("[[key]]\nname = 'a'\nsha256 = 'ab-a-plain-key'", "sha256"),
        (f"[[key]]\nname = 'a b'\nsha256 = '{'0' * 64}'", "name"),
        (f"[[key]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = []", "scopes"),
        (f"[[key]]\nname = 'a'\nsha256 = '{'0' * 64}'\nexpires = 2027-01-01T00:00:00", "offset"),
        (f"[[key]]\nname = 'a'\nsha256 = '{'0' * 64}'\n" * 2, "two keys"),
        ("[keys]\n", "'keys'"),
        ("not toml", "TOML"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_name(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as error:
        parse_keys(text, Path("keys.toml"))
    assert "keys.toml" in str(error.value)


def test_many_hands_at_once_undo_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    hands = [threading.Thread(target=add_key, args=(path, make_key(f"k{n}").key)) for n in range(12)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert {key.name for key in read_keys(path)} == {f"k{n}" for n in range(12)}
    with pytest.raises(Conflict):
        add_key(path, make_key("k3").key)
    revoke_key(path, "k3")
    with pytest.raises(UsageError, match="k3"):
        revoke_key(path, "k3")


def test_a_key_is_found_by_itself_and_by_nothing_near_it() -> None:
    made = [make_key(f"k{n}", services=["chat"]) for n in range(50)]
    ring = Keyring(tuple(m.key for m in made), RateLimit())
    for one in made:
        found = ring.find(one.secret, 0.0)
        assert isinstance(found, Identity) and found.name == f"key:{one.key.name}" and not found.may_use("other")
    for wrong in ("", "ab-", made[0].secret[:-1], made[0].secret + "x", made[0].key.sha256, made[0].secret.upper()):
        assert ring.find(wrong, 0.0) is None


def test_the_order_of_the_ring_says_nothing_about_the_digests_in_it() -> None:
    keys = tuple(make_key(f"k{n}").key for n in range(5))
    one, two = Keyring(keys, RateLimit()), Keyring(keys, RateLimit())
    assert not set(one._by_mark) & set(two._by_mark), "each process has an order of its own, which no caller can know"
    assert not {key.sha256.encode() for key in keys} & set(one._by_mark)


def test_an_expired_key_is_known_as_one() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=60)
    made = make_key("trial", expires=soon)
    ring = Keyring((made.key,), RateLimit())
    assert isinstance(ring.find(made.secret, soon.timestamp() - 1), Identity)
    assert ring.find(made.secret, soon.timestamp()) == "expired"


def test_a_watched_file_is_looked_at_once_a_second_and_keeps_its_last_good_word(tmp_path: Path) -> None:
    now = [0.0]
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("1")

    def load(file: Path) -> int:
        return int(file.read_text()) + (int(other.read_text()) if other.exists() else 0)

    watched = Watched(path, load, lambda: now[0], also=(other,))
    path.write_text("22")
    assert watched.value() == 1
    now[0] += LOOK_EVERY_S
    assert watched.value() == 22
    path.write_text("no number")
    now[0] += LOOK_EVERY_S
    assert watched.value() == 22
    path.write_text("3")
    other.write_text("400")
    now[0] += LOOK_EVERY_S
    assert watched.value() == 403


def test_secrets_come_by_reference_and_never_in_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s").write_text("from a file\n")
    monkeypatch.setenv("ACCESS_SECRET", "from the environment")
    assert read_secret("file:s", tmp_path) == "from a file"
    assert read_secret("env:ACCESS_SECRET", tmp_path) == "from the environment"
    assert env_names("env:B", None, "file:x", "env:A") == ("A", "B")
    for wrong in ("hunter2", "env:", "env:NOT_SET_ANYWHERE", "file:nowhere"):
        with pytest.raises(UsageError) as error:
            read_secret(wrong, tmp_path)
        assert "hunter2" not in str(error.value)
