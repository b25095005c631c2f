"""`[roles.ENV]` and `[people]` of airboss.toml: who may what, and who stands behind an account."""

from __future__ import annotations

from pydantic import Field

from state.config_types import Table


class Roles(Table):
    """Who may what in an environment: Unix users, or `group:NAME`."""

    viewer: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    approver: tuple[str, ...] = ()
    registrar: tuple[str, ...] = ()
    admin: tuple[str, ...] = ()


class PeopleConfig(Table):
    """Accounts that are not one person. `shared`: users or `group:NAME`; `owners`: account → the person behind it."""

    shared: tuple[str, ...] = ()
    owners: dict[str, str] = Field(default_factory=dict)

    def person_behind(self, user: str) -> str:
        """Who answers for what the account `user` begins: its owner, else the account itself."""
        return self.owners.get(user, user)
