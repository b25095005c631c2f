"""What of a release its users can notice, read from the store: for the plans there and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel import Session, col, select

from engine.api.schemas import PlanLine, PlanView
from engine.rollouts.compatibility import Difference, Level, Traits, compare
from state.config import Config
from state.models import Artifact, Release, Rollout
from state.words import GateRefused

SCHEMA_FILE = "schema.json"
TEMPLATE_FILE = "chat_template.jinja"


def changes_of_deploy(
    session: Session, config: Config, service: str, env: str, stable: str | None, release_id: str
) -> tuple[Difference, ...]:
    """What changes for users when `release_id` takes the place of `stable`; nothing where there is none."""
    if stable is None:
        return ()
    today = config.service[service].serving
    return compare(
        traits_of(session, config, service, env, stable),
        traits_of(session, config, service, env, release_id, settings=today),
    )


def with_changes(plan: PlanView, changes: Sequence[Difference]) -> PlanView:
    """The deployment's plan with what comes with the release, and what that means for its users."""
    lines = [PlanLine(object="comes with it", field=d.part, before=d.before, after=d.after) for d in changes]
    said = [
        f"{'blocked: ' if d.level is Level.BLOCK else ''}{d.part}: {d.says}" + (f" ({d.way_out})" if d.way_out else "")
        for d in changes
    ]
    return plan.model_copy(update={"lines": (*plan.lines, *lines), "warnings": (*plan.warnings, *said)})


def refuse_blocked(release_id: str, stable: str | None, changes: Sequence[Difference]) -> None:
    """Raise GateRefused when users of `stable` cannot be moved to the release."""
    blocking = [d for d in changes if d.level is Level.BLOCK]
    if blocking:
        raise GateRefused(
            f"{release_id} cannot take the place of {stable}: " + "; ".join(f"{d.part}: {d.says}" for d in blocking),
            hint=f"{'; '.join(dict.fromkeys(d.way_out for d in blocking))}; --force rolls it out all the same",
            code="incompatible",
        )


def traits_of(
    session: Session,
    config: Config,
    service: str,
    env: str,
    release_id: str,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Traits:
    """What users can notice of a release as it is served in `env`, or would be with the service's `settings`."""
    row = session.get(Release, release_id)
    if row is None:
        return Traits(release_id)
    if settings is None:
        settings = settings_of(session, config, service, env, release_id)
    in_effect = {**row.serving, **settings}
    files = select(Artifact).where(Artifact.release_id == release_id)
    digests = {
        file.path: file.sha256
        for file in session.exec(files.where(col(Artifact.path).in_((SCHEMA_FILE, TEMPLATE_FILE))))
    }
    return Traits(
        release_id,
        prompt=row.prompt_id or "",
        tokenizer=row.tokenizer_sha256,
        schema=digests.get(SCHEMA_FILE, ""),
        template=digests.get(TEMPLATE_FILE, ""),
        quantization=str(in_effect.get("quantization") or "none"),
        dtype=str(in_effect.get("dtype") or "float32"),
        context=_context(row.context_length, in_effect),
        settings=settings,
    )


def settings_of(session: Session, config: Config, service: str, env: str, release_id: str) -> Mapping[str, Any]:
    """`[service.NAME.serving]` as it was when the release was rolled out here; today's for one that never was."""
    came = select(Rollout).where(Rollout.service == service, Rollout.env == env, Rollout.to_release == release_id)
    for row in session.exec(came.order_by(col(Rollout.created_at).desc())):
        if "serving" in row.policy:
            return dict(row.policy["serving"])
    return config.service[service].serving


def _context(made_for: int, settings: Mapping[str, Any]) -> int:
    asked = int(settings.get("max_context") or 0)
    return min(asked, made_for) if asked and made_for else asked or made_for
