"""`[hook.NAME]`: who else is told of what happens, by webhook or command."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from state.config_types import Name, Table


class Hook(Table):
    """A webhook (`url`) or a command, for the events that match: `rollout.*`, `glass.break`, `freeze.start`, …"""

    url: str | None = None
    command: tuple[str, ...] = ()
    secret: str | None = None
    """`env:NAME` or `file:PATH`: what a webhook is signed with."""
    events: tuple[str, ...] = Field(default=("rollout.*", "glass.*"), min_length=1)
    environments: tuple[Name, ...] = ()
    """Only what happens there; none means everywhere."""

    @field_validator("url")
    @classmethod
    def _is_one(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://", "env:", "file:")):
            raise ValueError("an http:// or https:// address, or env:NAME or file:PATH that holds one")
        return value

    @model_validator(mode="after")
    def _has_one_way(self) -> Hook:
        if (self.url is None) == (not self.command):
            raise ValueError("a hook has either a url or a command")
        if self.secret is not None and self.url is None:
            raise ValueError("secret signs webhooks; a command is started by this engine and needs none")
        return self
