"""Who gets in: API keys and JSON Web Tokens, through a real gateway."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode as b64
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from state.key_file import add_key, make_key, revoke_key

KEYS = {"auth": {"mode": "keys"}}
SECRET = "a-secret-of-the-tests-of-thirty-two-bytes"


def new_key(house: Any, name: str, **fields: Any) -> str:
    made = make_key(name, **fields)
    add_key(house.root / "airboss-keys.toml", made.key)
    return made.secret


def token(secret: Any = SECRET, algorithm: str = "HS256", headers: Any = None, **claims: Any) -> str:
    body = {"sub": "ana", "iss": "idp", "aud": "airboss", "exp": time.time() + 60, **claims}
    return jwt.encode({k: v for k, v in body.items() if v is not None}, secret, algorithm, headers=headers)


def by_secret(monkeypatch: pytest.MonkeyPatch, **over: Any) -> dict[str, Any]:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    settings = {
        "algorithms": ["HS256"],
        "secret": "env:JWT_SECRET",
        "issuer": "idp",
        "audience": ["airboss"],
        "leeway": 1,
    }
    return {"auth": {"mode": "jwt", "jwt": {**settings, **over}}}


async def test_without_authentication_everybody_is_served_and_tenants_cannot_be_claimed(house: Any) -> None:
    await house.start()
    status, _, _ = await house.ask(headers={"X-Airboss-Tenant": "acme", "X-Airboss-Class": "interactive"})
    assert status == 200
    assert not [name for name in house.backend.seen[0][0] if name.lower() in ("x-airboss-tenant", "x-airboss-class")]


async def test_a_key_lets_in_and_says_who_asks_to_replica_and_ledger(house: Any) -> None:
    key = new_key(house, "ci", tenant="acme", **{"class": "batch"})
    await house.start(KEYS)
    status, _, _ = await house.ask(key=key, headers={"X-Airboss-Tenant": "rival", "X-Client-Id": "someone-else"})
    assert status == 200
    headers, _ = house.backend.seen[0]
    assert (headers["X-Airboss-Tenant"], headers["X-Airboss-Class"]) == ("acme", "batch")
    assert "Authorization" not in headers, "the caller's credential must not reach a replica"
    line = house.ledger()[0]
    assert (line["client_id"], line["tenant"]) == ("key:ci", "acme")
    assert (await house.ask(headers={"X-Api-Key": key}))[0] == 200


async def test_no_key_and_a_wrong_key_are_refused_in_openais_shape_with_a_challenge(house: Any) -> None:
    new_key(house, "ci")
    await house.start(KEYS)
    for key, code in (("", "missing_api_key"), ("ab-guess", "invalid_api_key")):
        status, body, headers = await house.ask(key=key)
        assert (status, body["error"]["code"]) == (401, code)
        assert headers["WWW-Authenticate"].startswith('Bearer realm="airboss"')
    async with house.session.get("/v1/models") as answer:
        assert answer.status == 401
    async with house.session.get("/healthz") as answer:
        assert answer.status == 200, "a load balancer has no key"
    assert not house.backend.seen
    assert house.metric("airboss_rejected_total", reason="unauthenticated") == 3


async def test_a_credential_of_odd_bytes_is_refused_and_nothing_breaks(house: Any) -> None:
    await house.start(KEYS)
    status, _, _ = await house.ask(headers={"Authorization": "Bearer clé"})
    assert status == 401


async def test_a_key_for_one_service_opens_no_other(house: Any) -> None:
    key = new_key(house, "ci", services=["other"])
    await house.start(KEYS, services=("chat", "other"))
    status, body, _ = await house.ask(key=key)
    assert (status, body["error"]["code"]) == (403, "service_not_allowed")
    assert (await house.ask(key=key, model="other"))[0] == 200
    async with house.session.get("/v1/models", headers={"Authorization": f"Bearer {key}"}) as answer:
        assert [m["id"] for m in (await answer.json())["data"]] == ["other"]


async def test_an_expired_key_is_refused_by_name(house: Any) -> None:
    key = new_key(house, "old", expires=datetime.now(UTC) - timedelta(seconds=1))
    await house.start(KEYS)
    status, body, _ = await house.ask(key=key)
    assert (status, body["error"]["code"]) == (401, "expired_api_key")


async def test_a_revoked_key_is_refused_once_the_file_is_seen_and_a_broken_file_changes_nothing(house: Any) -> None:
    key, path = new_key(house, "ci"), house.root / "airboss-keys.toml"
    await house.start(KEYS)
    keyring = house.front.desk.authenticator._keyring
    good = path.read_text()
    path.write_text("[[key]]\nname = 3")
    keyring.look()
    assert (await house.ask(key=key))[0] == 200, "what cannot be read must not lock everybody out"
    path.write_text(good)
    revoke_key(path, "ci")
    keyring.look()
    assert (await house.ask(key=key))[0] == 401


async def test_the_file_of_keys_holds_no_key_and_is_its_owners_alone(house: Any) -> None:
    key, path = new_key(house, "ci"), house.root / "airboss-keys.toml"
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


async def test_a_token_lets_in_and_its_claims_become_tenant_class_and_services(house: Any, monkeypatch: Any) -> None:
    await house.start(by_secret(monkeypatch, tenant_claim="org"), services=("chat", "other"))
    good = token(org="acme", services="chat", **{"class": "interactive"})
    assert (await house.ask(key=good))[0] == 200
    headers, _ = house.backend.seen[0]
    assert (headers["X-Airboss-Tenant"], headers["X-Airboss-Class"]) == ("acme", "interactive")
    assert house.ledger()[0]["client_id"] == "jwt:ana"
    assert (await house.ask(key=good, model="other"))[0] == 403


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": 1.0}, "ExpiredSignatureError"),
        ({"exp": None}, "MissingRequiredClaimError"),
        ({"sub": None}, "MissingRequiredClaimError"),
        ({"aud": "elsewhere"}, "InvalidAudienceError"),
        ({"aud": None}, "MissingRequiredClaimError"),
        ({"iss": "mallory"}, "InvalidIssuerError"),
        ({"nbf": 4e9}, "ImmatureSignatureError"),
        ({"sub": "a\r\nX-Evil: 1"}, "sub"),
        ({"tenant": "a b"}, "tenant"),
        ({"services": [1]}, "services"),
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(house: Any, monkeypatch: Any, claims: Any, why: str) -> None:
    await house.start(by_secret(monkeypatch))
    status, body, _ = await house.ask(key=token(**claims))
    assert (status, body["error"]["code"]) == (401, "invalid_token")
    assert why in body["error"]["message"]
    assert not house.backend.seen


async def test_unsigned_forged_and_mislabelled_tokens_are_refused(house: Any, monkeypatch: Any) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    public = rsa_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (house.root / "idp.pem").write_bytes(public)
    await house.start({"auth": {"mode": "jwt", "jwt": {"algorithms": ["RS256"], "public_key": "idp.pem",
                                                       "audience": ["airboss"]}}})  # fmt: skip
    assert (await house.ask(key=token(rsa_key, "RS256")))[0] == 200
    unsigned = jwt.encode({"sub": "ana", "aud": "airboss", "exp": time.time() + 60}, None, "none")
    header, claims, signature = token(rsa_key, "RS256").split(".")
    other = token(rsa.generate_private_key(65537, 2048), "RS256")
    # The classic: the public key, which everybody may have, used as a secret.
    confused_head = b64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()).rstrip(b"=").decode()
    mark = hmac.new(public, f"{confused_head}.{claims}".encode(), hashlib.sha256).digest()
    confused = f"{confused_head}.{claims}.{b64(mark).rstrip(b'=').decode()}"
    for bad in (unsigned, f"{header}.{claims}.", f"{header}.{claims}.AAAA{signature[4:]}", other, confused, "a.b.c"):
        status, body, _ = await house.ask(key=bad)
        assert (status, body["error"]["code"]) == (401, "invalid_token")
    assert len(house.backend.seen) == 1


async def test_a_key_set_is_chosen_from_by_kid_and_reloaded_when_keys_turn_over(house: Any) -> None:
    old, new = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def publish(**keys: Any) -> None:
        to_jwk = jwt.algorithms.ECAlgorithm.to_jwk
        found = [{**json.loads(to_jwk(key.public_key())), "kid": kid, "alg": "ES256"} for kid, key in keys.items()]
        (house.root / "jwks.json").write_text(json.dumps({"keys": found}))

    publish(a=old)
    await house.start(
        {"auth": {"mode": "any", "jwt": {"algorithms": ["ES256"], "jwks": "jwks.json", "audience": ["airboss"]}}}
    )
    assert (await house.ask(key=token(old, "ES256", {"kid": "a"})))[0] == 200
    assert (await house.ask(key=token(new, "ES256", {"kid": "b"})))[0] == 401
    publish(b=new)
    house.front.desk.authenticator._tokens._keys.look()
    assert (await house.ask(key=token(new, "ES256", {"kid": "b"})))[0] == 200
    assert (await house.ask(key=token(old, "ES256", {"kid": "a"})))[0] == 401


async def test_where_callers_prove_who_they_are_only_the_engines_prober_goes_uncounted(house: Any) -> None:
    (house.root / "probe.key").write_text("ab-probe")
    key = new_key(house, "ci")
    await house.start(KEYS)
    assert (await house.ask(key=key, headers={"X-Airboss-Probe": "1"}))[0] == 200
    assert (await house.ask(key="ab-probe", headers={"X-Airboss-Probe": "1"}))[0] == 200
    assert [line["client_id"] for line in house.ledger()] == ["key:ci"]
