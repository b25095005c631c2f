"""The first schema.

Revision: 0001
The audit table refuses update and delete by trigger. Batch migrations that copy the table drop its triggers and must
make them again (`make_audit_append_only`).
"""

from __future__ import annotations

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


REFUSED = "the audit log is append-only"


def make_audit_append_only() -> None:
    """Triggers that refuse to change or remove a row of the audit chain."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_refused() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{REFUSED}'; END $$"
        )
        for verb, each in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            op.execute(
                f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
                f"FOR EACH {each} EXECUTE FUNCTION audit_refused()"
            )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END"
        )


def upgrade() -> None:
    op.create_table(
        "alert",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sqlmodel.AutoString(), nullable=False),
        sa.Column("name", sqlmodel.AutoString(), nullable=False),
        sa.Column("severity", sqlmodel.AutoString(), nullable=False),
        sa.Column("service", sqlmodel.AutoString(), nullable=False),
        sa.Column("env", sqlmodel.AutoString(), nullable=False),
        sa.Column("summary", sqlmodel.AutoString(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("state", sqlmodel.AutoString(), nullable=False),
        sa.Column("starts_at", sa.Float(), nullable=False),
        sa.Column("ends_at", sa.Float(), nullable=True),
        sa.Column("acked_by", sqlmodel.AutoString(), nullable=False),
        sa.Column("acked_at", sa.Float(), nullable=True),
        sa.Column("notified_at", sa.Float(), nullable=True),
        sa.Column("notify_error", sqlmodel.AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert")),
        sa.UniqueConstraint("fingerprint", "starts_at", name=op.f("uq_alert_fingerprint_starts_at")),
    )
    with op.batch_alter_table("alert", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_alert_fingerprint"), ["fingerprint"], unique=False)
        batch_op.create_index(batch_op.f("ix_alert_state"), ["state"], unique=False)

    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sqlmodel.AutoString(), nullable=False),
        sa.Column("action", sqlmodel.AutoString(), nullable=False),
        sa.Column("ref", sqlmodel.AutoString(), nullable=False),
        sa.Column("reason", sqlmodel.AutoString(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("prev", sqlmodel.AutoString(), nullable=False),
        sa.Column("hash", sqlmodel.AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_ref"), ["ref"], unique=False)

    op.create_table(
        "dataset",
        sa.Column("id", sqlmodel.AutoString(), nullable=False),
        sa.Column("sha256", sqlmodel.AutoString(), nullable=False),
        sa.Column("name", sqlmodel.AutoString(), nullable=False),
        sa.Column("source", sqlmodel.AutoString(), nullable=False),
        sa.Column("path", sqlmodel.AutoString(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("chars", sa.Integer(), nullable=False),
        sa.Column("redactions", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
    )
    with op.batch_alter_table("dataset", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dataset_sha256"), ["sha256"], unique=False)

    op.create_table(
        "evidence",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("boot_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("table_revision", sa.Integer(), nullable=False),
        sa.Column("t0", sa.Float(), nullable=False),
        sa.Column("t1", sa.Float(), nullable=False),
        sa.Column("service", sqlmodel.AutoString(), nullable=False),
        sa.Column("env", sqlmodel.AutoString(), nullable=False),
        sa.Column("target", sqlmodel.AutoString(), nullable=False),
        sa.Column("track", sqlmodel.AutoString(), nullable=False),
        sa.Column("release_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("rollout_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("slow", sa.Integer(), nullable=False),
        sa.Column("codes", sa.JSON(), nullable=False),
        sa.Column("latency", sa.JSON(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evidence")),
        sa.UniqueConstraint(
            "boot_id",
            "seq",
            "service",
            "env",
            "target",
            "track",
            "release_id",
            "table_revision",
            name=op.f("uq_evidence_boot_id_seq_service_env_target_track_release_id_table_revision"),
        ),
    )
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.create_index("ix_evidence_rollout", ["rollout_id", "table_revision"], unique=False)
        batch_op.create_index("ix_evidence_service_time", ["service", "env", "t1"], unique=False)
        batch_op.create_index(batch_op.f("ix_evidence_t1"), ["t1"], unique=False)

    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("request_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("kind", sqlmodel.AutoString(), nullable=False),
        sa.Column("value", sqlmodel.AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_feedback_request_id"), ["request_id"], unique=False)

    op.create_table(
        "intent",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sqlmodel.AutoString(), nullable=False),
        sa.Column("rollout_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("kind", sqlmodel.AutoString(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("state", sqlmodel.AutoString(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("done_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent")),
        sa.UniqueConstraint("key", name=op.f("uq_intent_key")),
    )
    with op.batch_alter_table("intent", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_intent_rollout_id"), ["rollout_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_intent_state"), ["state"], unique=False)

    op.create_table(
        "kv",
        sa.Column("key", sqlmodel.AutoString(), nullable=False),
        sa.Column("value", sqlmodel.AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_kv")),
    )
    op.create_table(
        "lease",
        sa.Column("name", sqlmodel.AutoString(), nullable=False),
        sa.Column("kind", sqlmodel.AutoString(), nullable=False),
        sa.Column("holder", sqlmodel.AutoString(), nullable=False),
        sa.Column("reason", sqlmodel.AutoString(), nullable=False),
        sa.Column("starts_at", sa.Float(), nullable=False),
        sa.Column("ends_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "lineage_edge",
        sa.Column("src", sqlmodel.AutoString(), nullable=False),
        sa.Column("dst", sqlmodel.AutoString(), nullable=False),
        sa.Column("kind", sqlmodel.AutoString(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("src", "dst", "kind", name=op.f("pk_lineage_edge")),
    )
    op.create_table(
        "prompt",
        sa.Column("id", sqlmodel.AutoString(), nullable=False),
        sa.Column("name", sqlmodel.AutoString(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sha256", sqlmodel.AutoString(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompt")),
    )
    op.create_table(
        "rollout",
        sa.Column("id", sqlmodel.AutoString(), nullable=False),
        sa.Column("service", sqlmodel.AutoString(), nullable=False),
        sa.Column("env", sqlmodel.AutoString(), nullable=False),
        sa.Column("target", sqlmodel.AutoString(), nullable=False),
        sa.Column("strategy", sqlmodel.AutoString(), nullable=False),
        sa.Column("from_release", sqlmodel.AutoString(), nullable=True),
        sa.Column("to_release", sqlmodel.AutoString(), nullable=False),
        sa.Column("state", sqlmodel.AutoString(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("resume_state", sqlmodel.AutoString(), nullable=False),
        sa.Column("pause_reason", sqlmodel.AutoString(), nullable=False),
        sa.Column("message", sqlmodel.AutoString(), nullable=False),
        sa.Column("reason", sqlmodel.AutoString(), nullable=False),
        sa.Column("registry_sync", sqlmodel.AutoString(), nullable=False),
        sa.Column("warm_until", sa.Float(), nullable=True),
        sa.Column("created_by", sqlmodel.AutoString(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("state_since", sa.Float(), nullable=False),
        sa.Column("state_boot", sqlmodel.AutoString(), nullable=False),
        sa.Column("state_mono", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout")),
    )
    with op.batch_alter_table("rollout", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rollout_service"), ["service"], unique=False)
        batch_op.create_index(batch_op.f("ix_rollout_state"), ["state"], unique=False)
        batch_op.create_index(
            "uq_rollout_one_active",
            ["service", "env"],
            unique=True,
            sqlite_where=sa.text("state NOT IN ('cancelled', 'completed', 'rolled_back', 'superseded')"),
            postgresql_where=sa.text("state NOT IN ('cancelled', 'completed', 'rolled_back', 'superseded')"),
        )

    op.create_table(
        "run",
        sa.Column("id", sqlmodel.AutoString(), nullable=False),
        sa.Column("pipeline", sqlmodel.AutoString(), nullable=False),
        sa.Column("state", sqlmodel.AutoString(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("reason", sqlmodel.AutoString(), nullable=False),
        sa.Column("release_id", sqlmodel.AutoString(), nullable=True),
        sa.Column("error", sqlmodel.AutoString(), nullable=False),
        sa.Column("created_by", sqlmodel.AutoString(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_run_pipeline"), ["pipeline"], unique=False)
        batch_op.create_index(batch_op.f("ix_run_state"), ["state"], unique=False)

    op.create_table(
        "silence",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("matchers", sa.JSON(), nullable=False),
        sa.Column("created_by", sqlmodel.AutoString(), nullable=False),
        sa.Column("reason", sqlmodel.AutoString(), nullable=False),
        sa.Column("starts_at", sa.Float(), nullable=False),
        sa.Column("ends_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_silence")),
    )
    op.create_table(
        "sli_minute",
        sa.Column("service", sqlmodel.AutoString(), nullable=False),
        sa.Column("env", sqlmodel.AutoString(), nullable=False),
        sa.Column("minute", sa.Integer(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("slow", sa.Integer(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("probe_errors", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("service", "env", "minute", name=op.f("pk_sli_minute")),
    )
    op.create_table(
        "spawn",
        sa.Column("spawn_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("kind", sqlmodel.AutoString(), nullable=False),
        sa.Column("owner", sqlmodel.AutoString(), nullable=False),
        sa.Column("service", sqlmodel.AutoString(), nullable=False),
        sa.Column("env", sqlmodel.AutoString(), nullable=False),
        sa.Column("release_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("digest", sqlmodel.AutoString(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("desired", sqlmodel.AutoString(), nullable=False),
        sa.Column("state", sqlmodel.AutoString(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("address", sqlmodel.AutoString(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ready_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("end_cause", sqlmodel.AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("spawn_id", name=op.f("pk_spawn")),
    )
    with op.batch_alter_table("spawn", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_spawn_kind"), ["kind"], unique=False)
        batch_op.create_index(batch_op.f("ix_spawn_owner"), ["owner"], unique=False)

    op.create_table(
        "track",
        sa.Column("service", sqlmodel.AutoString(), nullable=False),
        sa.Column("env", sqlmodel.AutoString(), nullable=False),
        sa.Column("target", sqlmodel.AutoString(), nullable=False),
        sa.Column("track", sqlmodel.AutoString(), nullable=False),
        sa.Column("release_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("rollout_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("warm_until", sa.Float(), nullable=True),
        sa.Column("since", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("service", "env", "target", "track", name=op.f("pk_track")),
    )
    op.create_table(
        "approval",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("by", sqlmodel.AutoString(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("decision", sqlmodel.AutoString(), nullable=False),
        sa.Column("reason", sqlmodel.AutoString(), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name=op.f("fk_approval_rollout_id_rollout")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval")),
    )
    with op.batch_alter_table("approval", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_approval_rollout_id"), ["rollout_id"], unique=False)

    op.create_table(
        "release",
        sa.Column("id", sqlmodel.AutoString(), nullable=False),
        sa.Column("service", sqlmodel.AutoString(), nullable=False),
        sa.Column("lifecycle", sqlmodel.AutoString(), nullable=False),
        sa.Column("model_name", sqlmodel.AutoString(), nullable=False),
        sa.Column("model_version", sqlmodel.AutoString(), nullable=False),
        sa.Column("digest", sqlmodel.AutoString(), nullable=False),
        sa.Column("bundle_path", sqlmodel.AutoString(), nullable=False),
        sa.Column("run_id", sqlmodel.AutoString(), nullable=True),
        sa.Column("dataset_id", sqlmodel.AutoString(), nullable=True),
        sa.Column("prompt_id", sqlmodel.AutoString(), nullable=True),
        sa.Column("parent_id", sqlmodel.AutoString(), nullable=True),
        sa.Column("git_commit", sqlmodel.AutoString(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("training", sa.JSON(), nullable=False),
        sa.Column("serving", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("tokenizer_sha256", sqlmodel.AutoString(), nullable=False),
        sa.Column("context_length", sa.Integer(), nullable=False),
        sa.Column("rejected_reason", sqlmodel.AutoString(), nullable=False),
        sa.Column("created_by", sqlmodel.AutoString(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_release_dataset_id_dataset")),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name=op.f("fk_release_prompt_id_prompt")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_release_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_release")),
    )
    with op.batch_alter_table("release", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_release_service"), ["service"], unique=False)

    op.create_table(
        "rollout_step",
        sa.Column("rollout_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("kind", sqlmodel.AutoString(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("state", sqlmodel.AutoString(), nullable=False),
        sa.Column("table_revision", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("elapsed_s", sa.Float(), nullable=False),
        sa.Column("boot_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("mono_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name=op.f("fk_rollout_step_rollout_id_rollout")),
        sa.PrimaryKeyConstraint("rollout_id", "idx", name=op.f("pk_rollout_step")),
    )
    op.create_table(
        "stage_run",
        sa.Column("run_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("name", sqlmodel.AutoString(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sqlmodel.AutoString(), nullable=False),
        sa.Column("cache_key", sqlmodel.AutoString(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("spawn_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("gates", sa.JSON(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("log_path", sqlmodel.AutoString(), nullable=False),
        sa.Column("out_dir", sqlmodel.AutoString(), nullable=False),
        sa.Column("error", sqlmodel.AutoString(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_stage_run_run_id_run")),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_stage_run")),
    )
    op.create_table(
        "verdict",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sqlmodel.AutoString(), nullable=False),
        sa.Column("sentence", sqlmodel.AutoString(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("consumed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], name=op.f("fk_verdict_rollout_id_rollout")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdict")),
    )
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_verdict_rollout_id"), ["rollout_id"], unique=False)

    op.create_table(
        "artifact",
        sa.Column("release_id", sqlmodel.AutoString(), nullable=False),
        sa.Column("path", sqlmodel.AutoString(), nullable=False),
        sa.Column("sha256", sqlmodel.AutoString(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["release_id"], ["release.id"], name=op.f("fk_artifact_release_id_release")),
        sa.PrimaryKeyConstraint("release_id", "path", name=op.f("pk_artifact")),
    )
    make_audit_append_only()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_refused CASCADE")
    else:
        for verb in ("update", "delete"):
            op.execute(f"DROP TRIGGER audit_no_{verb}")
    op.drop_table("artifact")
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_verdict_rollout_id"))

    op.drop_table("verdict")
    op.drop_table("stage_run")
    op.drop_table("rollout_step")
    with op.batch_alter_table("release", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_release_service"))

    op.drop_table("release")
    with op.batch_alter_table("approval", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_approval_rollout_id"))

    op.drop_table("approval")
    op.drop_table("track")
    with op.batch_alter_table("spawn", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_spawn_owner"))
        batch_op.drop_index(batch_op.f("ix_spawn_kind"))

    op.drop_table("spawn")
    op.drop_table("sli_minute")
    op.drop_table("silence")
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_run_state"))
        batch_op.drop_index(batch_op.f("ix_run_pipeline"))

    op.drop_table("run")
    with op.batch_alter_table("rollout", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_rollout_one_active",
            sqlite_where=sa.text("state NOT IN ('cancelled', 'completed', 'rolled_back', 'superseded')"),
            postgresql_where=sa.text("state NOT IN ('cancelled', 'completed', 'rolled_back', 'superseded')"),
        )
        batch_op.drop_index(batch_op.f("ix_rollout_state"))
        batch_op.drop_index(batch_op.f("ix_rollout_service"))

    op.drop_table("rollout")
    op.drop_table("prompt")
    op.drop_table("lineage_edge")
    op.drop_table("lease")
    op.drop_table("kv")
    with op.batch_alter_table("intent", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_intent_state"))
        batch_op.drop_index(batch_op.f("ix_intent_rollout_id"))

    op.drop_table("intent")
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_feedback_request_id"))

    op.drop_table("feedback")
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_evidence_t1"))
        batch_op.drop_index("ix_evidence_service_time")
        batch_op.drop_index("ix_evidence_rollout")

    op.drop_table("evidence")
    with op.batch_alter_table("dataset", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_dataset_sha256"))

    op.drop_table("dataset")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_ref"))

    op.drop_table("audit")
    with op.batch_alter_table("alert", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_alert_state"))
        batch_op.drop_index(batch_op.f("ix_alert_fingerprint"))

    op.drop_table("alert")
