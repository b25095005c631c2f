"""How a server outside is reached: who we are to it, and whose certificates count. Secrets are references."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from pydantic import field_validator, model_validator

from state.config_types import Table
from state.secret import read_secret
from state.words import UsageError


class ServerAccess(Table):
    """A bearer token, or a username and password; a CA of one's own; a client certificate (mTLS). Secrets by env: or file:."""

    token: str | None = None
    username: str | None = None
    password: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @field_validator("token", "password")
    @classmethod
    def _reference(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("env:", "file:")):
            raise ValueError("must be env:NAME or file:PATH")
        return value

    @model_validator(mode="after")
    def _whole(self) -> ServerAccess:
        if bool(self.username) != bool(self.password):
            raise ValueError("username and password go together")
        if self.token and self.username:
            raise ValueError("give a token, or a username and password")
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together: the client's certificate and its private key")
        return self


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client is made with; secrets as they were when it was read."""

    token: str = ""
    basic: tuple[str, str] | None = None
    ca: str | None = None
    client: tuple[str, str] | None = None

    @classmethod
    def of(cls, access: ServerAccess, root: Path) -> Credentials:
        """Read the secrets and find the files, relative to the workspace. Raises UsageError for what is not there."""
        return cls(
            token=read_secret(access.token, root) if access.token else "",
            basic=(access.username, read_secret(access.password, root))
            if access.username and access.password
            else None,
            ca=_file(access.ca, root) if access.ca else None,
            client=(_file(access.cert, root), _file(access.key, root)) if access.cert and access.key else None,
        )

    @property
    def headers(self) -> dict[str, str]:
        """What says who we are, where that is a header."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def tls(self) -> ssl.SSLContext:
        """Whose certificates count, and ours. Blocks: certificates are read. Raises UsageError."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.client is not None:
                context.load_cert_chain(*self.client)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"the certificates {', '.join(filter(None, (self.ca, *(self.client or ()))))} cannot be used: {error}",
                hint="PEM files: ca has the authority's certificates, cert the client's chain, key its private key",
            ) from error
        return context


def _file(place: str, root: Path) -> str:
    path = root / Path(place).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="name a PEM file, absolute or relative to the workspace")
    return str(path)
