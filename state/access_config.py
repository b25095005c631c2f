"""Who may use the gateway, and how much: `[gateway.auth]`, `[gateway.rate]`, `[gateway.requests]`, `[gateway.cache]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from state.config_types import Duration, Table

SYMMETRIC = frozenset({"HS256", "HS384", "HS512"})
JwtAlgorithm = Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]


class JwtConfig(Table):
    """JSON Web Tokens: which are believed, and what their claims mean. Files are relative to the workspace."""

    algorithms: tuple[JwtAlgorithm, ...] = ()
    secret: str | None = None
    public_key: str | None = None
    jwks: str | None = None
    issuer: str | None = None
    audience: tuple[str, ...] = ()
    leeway: Duration = 30.0
    required: tuple[str, ...] = ("exp", "sub")
    tenant_claim: str = "tenant"
    class_claim: str = "class"
    services_claim: str = "services"

    @model_validator(mode="after")
    def _one_key(self) -> JwtConfig:
        given = [name for name in ("secret", "public_key", "jwks") if getattr(self, name)]
        if not given and not self.algorithms:
            return self  # not in use
        if len(given) != 1:
            raise ValueError("give exactly one of secret, public_key, jwks: one key decides what is believed")
        if not self.algorithms:
            raise ValueError("algorithms must name what is accepted, such as ['RS256']")
        symmetric = SYMMETRIC & set(self.algorithms)
        if self.secret and symmetric != set(self.algorithms):
            raise ValueError("a secret goes with HS256, HS384, HS512 only")
        if not self.secret and symmetric:
            raise ValueError(f"{', '.join(sorted(symmetric))} with a public key would let anyone sign: use a secret")
        if self.secret and not self.secret.startswith(("env:", "file:")):
            raise ValueError("secret must be env:NAME or file:PATH")
        return self

    @property
    def is_set(self) -> bool:
        """There is a key to check tokens with."""
        return bool(self.secret or self.public_key or self.jwks)


class AuthConfig(Table):
    """Who may ask: `none` asks nobody, `any` takes a key or a token."""

    mode: Literal["none", "keys", "jwt", "any"] = "none"
    keys_file: str = "airboss-keys.toml"
    jwt: JwtConfig = JwtConfig()

    @model_validator(mode="after")
    def _has_what_it_checks(self) -> AuthConfig:
        if self.mode == "jwt" and not self.jwt.is_set:
            raise ValueError("mode = 'jwt' needs [gateway.auth.jwt] with a secret, a public_key or a jwks")
        return self

    @property
    def takes_keys(self) -> bool:
        """API keys are accepted."""
        return self.mode in ("keys", "any")

    @property
    def takes_tokens(self) -> bool:
        """JSON Web Tokens are accepted."""
        return self.mode == "jwt" or (self.mode == "any" and self.jwt.is_set)


class RateLimit(Table):
    """What one caller may use; 0 sets no limit. `burst` is how many requests may come within one second."""

    requests_per_minute: int = Field(default=0, ge=0)
    tokens_per_minute: int = Field(default=0, ge=0)
    burst: int = Field(default=0, ge=0)

    @property
    def is_set(self) -> bool:
        """Anything is limited."""
        return bool(self.requests_per_minute or self.tokens_per_minute or self.burst)


class RateConfig(Table):
    """Limits per API key or token's subject, per tenant, and per address; every one that applies must have room."""

    key: RateLimit = RateLimit()
    tenant: RateLimit = RateLimit()
    address: RateLimit = RateLimit()


class RequestConfig(Table):
    """What a request may look like, and how long it may take to arrive."""

    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    max_header_bytes: int = Field(default=16_384, ge=1024)
    max_headers: int = Field(default=100, ge=8)
    header_timeout: Duration = Field(default=10.0, gt=0)
    body_timeout: Duration = Field(default=30.0, gt=0)
    idle_timeout: Duration = Field(default=75.0, gt=0)


class CacheConfig(Table):
    """The answers that a worker keeps, for services with `[service.NAME.cache]`."""

    max_bytes: int = Field(default=64 << 20, ge=1024)
    max_entries: int = Field(default=4096, ge=1)


class AccessConfig(Table):
    """Everything of the above, as a gateway worker gets it. `workers` share each limit."""

    auth: AuthConfig = AuthConfig()
    rate: RateConfig = RateConfig()
    requests: RequestConfig = RequestConfig()
    cache: CacheConfig = CacheConfig()
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    root: str = "."
    """What relative paths are relative to."""
    workers: int = Field(default=1, ge=1)
