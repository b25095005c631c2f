"""The record of answers kept for `--idempotency-key`: one row a key and asker, until it expires."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

from state.models import NAMING

assert SQLModel.metadata.naming_convention == NAMING  # constraints are named as those of the other tables


class KeptAnswer(SQLModel, table=True):
    """A verb asked for under a key: claimed before the work, answered after it. No answer: at work, or died in it."""

    __tablename__ = "kept_answer"
    actor: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    verb: str
    ref: str
    digest: str
    """sha256 of what was asked for."""
    claimed_at: float
    expires_at: float = Field(index=True)
    audit_id: int | None = None
    """The last audit row that the work has written: it was committed together with this number."""
    answer: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    """The result, or the error that followed on something done; empty while there is neither."""
    is_error: bool = False
