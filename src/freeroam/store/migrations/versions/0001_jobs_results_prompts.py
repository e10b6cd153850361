"""Jobs, results and prompts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("started_at", sa.Float(53)),
        sa.Column("completed_at", sa.Float(53)),
        sa.Column("frames_processed", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("next_id", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("error_code", sa.String(64)),
        sa.Column("prompt", sa.Text),
        sa.Column("prompt_version", sa.Integer),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("cursor", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(128)),
        sa.Column("lease_until", sa.Float(53)),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_status_created_at", "jobs", ["status", "created_at"])
    op.create_index("ix_jobs_created_at", "jobs", ["created_at"])
    op.create_table(
        "results",
        sa.Column("job_id", sa.String(128), nullable=False),
        sa.Column("id", sa.BigInteger, nullable=False),
        sa.Column("entry_key", sa.String(256), nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "id", name="pk_results"),
        sa.UniqueConstraint("job_id", "entry_key", name="uq_results_job_id_entry_key"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_results_job_id"),
    )
    op.create_table(
        "prompts",
        sa.Column("scope", sa.String(128), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("scope_created_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("scope", "version", name="pk_prompts"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("prompts")
    op.drop_table("results")
    op.drop_table("jobs")
