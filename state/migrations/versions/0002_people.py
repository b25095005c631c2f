"""Approvals bound to a plan and a gate, broken glasses, the outbox of hooks.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("approval") as batch_op:
        batch_op.add_column(sa.Column("plan_hash", sqlmodel.AutoString(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("gate", sa.Integer(), nullable=False, server_default="-1"))
    op.create_table(
        "broken_glass",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("service", sqlmodel.AutoString(), nullable=False),
        sa.Column("env", sqlmodel.AutoString(), nullable=False),
        sa.Column("verb", sqlmodel.AutoString(), nullable=False),
        sa.Column("by", sqlmodel.AutoString(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("reason", sqlmodel.AutoString(), nullable=False),
        sa.Column("passed", sqlmodel.AutoString(), nullable=False),
        sa.Column("acked_by", sqlmodel.AutoString(), nullable=False),
        sa.Column("acked_at", sa.Float(), nullable=True),
        sa.Column("ack_reason", sqlmodel.AutoString(), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name=op.f("fk_broken_glass_rollout_id_rollout")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_broken_glass")),
    )
    op.create_index(op.f("ix_broken_glass_rollout_id"), "broken_glass", ["rollout_id"])
    op.create_table(
        "hook_delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hook", sqlmodel.AutoString(), nullable=False),
        sa.Column("delivery_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("event", sqlmodel.AutoString(), nullable=False),
        sa.Column("ref", sqlmodel.AutoString(), nullable=False),
        sa.Column("body", sqlmodel.AutoString(), nullable=False),
        sa.Column("state", sqlmodel.AutoString(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("error", sqlmodel.AutoString(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("done_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hook_delivery")),
        sa.UniqueConstraint("delivery_id", name=op.f("uq_hook_delivery_delivery_id")),
    )
    op.create_index(op.f("ix_hook_delivery_hook"), "hook_delivery", ["hook"])
    op.create_index(op.f("ix_hook_delivery_state"), "hook_delivery", ["state"])


def downgrade() -> None:
    op.drop_index(op.f("ix_hook_delivery_state"), "hook_delivery")
    op.drop_index(op.f("ix_hook_delivery_hook"), "hook_delivery")
    op.drop_table("hook_delivery")
    op.drop_index(op.f("ix_broken_glass_rollout_id"), "broken_glass")
    op.drop_table("broken_glass")
    with op.batch_alter_table("approval") as batch_op:
        batch_op.drop_column("gate")
        batch_op.drop_column("plan_hash")
