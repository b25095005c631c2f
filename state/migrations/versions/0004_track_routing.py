"""What a rollout adds to a route beside its weights: rules, the share of copies, the split.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("track", schema=None) as batch_op:
        batch_op.add_column(sa.Column("routing", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("track", schema=None) as batch_op:
        batch_op.alter_column("routing", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("track", schema=None) as batch_op:
        batch_op.drop_column("routing")
