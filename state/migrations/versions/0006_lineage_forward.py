"""An index on the far end of a lineage edge: what was made from a record is looked up as fast as what it was made from.

Revision: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_lineage_edge_dst", "lineage_edge", ["dst", "src"])


def downgrade() -> None:
    op.drop_index("ix_lineage_edge_dst", table_name="lineage_edge")
