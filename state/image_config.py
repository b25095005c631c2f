"""`[service.NAME.kubernetes.verify]`: whose signature an image must have before it is deployed."""

from __future__ import annotations

from pydantic import model_validator

from state.config_types import Table


class ImageCheck(Table):
    """The signer: a `key` (a file of the workspace, or a KMS URI that cosign knows), or an `identity` with its `issuer` for what is signed
    without a key. `required` refuses where cosign is not installed; else the digest alone is checked there, and said so.
    """

    key: str | None = None
    identity: str | None = None
    issuer: str | None = None
    required: bool = False

    @model_validator(mode="after")
    def _one_signer(self) -> ImageCheck:
        if (self.key is None) == (self.identity is None) or (self.identity is None) != (self.issuer is None):
            raise ValueError("needs a key, or an identity and its issuer")
        return self

    @property
    def signer(self) -> str:
        """For a person."""
        return f"key {self.key}" if self.key else f"{self.identity} of {self.issuer}"
