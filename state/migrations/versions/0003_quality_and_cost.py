"""Evidence of quality and cost.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COUNTS = ("checked", "failed", "priced", "dear")


def upgrade() -> None:
    with op.batch_alter_table("evidence") as batch_op:
        for name in _COUNTS:
            batch_op.add_column(sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("busy_s", sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("evidence") as batch_op:
        for name in (*_COUNTS, "busy_s"):
            batch_op.drop_column(name)
