"""A release's prompt in MLflow's prompt registry, and the link from the model to it.

MLflow's own `link_prompt_version_to_model` writes to the process's global tracking store, which is none of ours, so the tag
that it sets (its user interface shows the link by it) is set here through the client that is open.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from adapters.ports import Registration

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.tracking.client import MlflowClient

BUILD_KEY = "airboss.build_key"
SHA256 = "airboss.sha256"
URI = "airboss.prompt_uri"
"""On the model's version: `prompts:/NAME/N`, what `mlflow.genai.load_prompt` takes."""
_IS_PROMPT = "mlflow.prompt.is_prompt"


def keep_prompt(client: MlflowClient, version: MlflowVersion, of: Registration) -> None:
    """Keep the registration's prompt, and link its version to it. Repeating it changes nothing. Raises what MLflow raises."""
    from mlflow.tracing.constant import TraceTagKey

    if not of.prompt_name:
        return
    number = _number(client, of)
    linked = json.dumps([{"name": of.prompt_name, "version": str(number)}])
    # Read back, a version does not know its logged model's id: both know the run.
    experiment = client.get_run(str(version.run_id)).info.experiment_id
    for model in client.search_logged_models([experiment], f"tags.`{BUILD_KEY}` = '{of.build_key}'"):
        if model.source_run_id == version.run_id:
            client.set_logged_model_tags(model.model_id, {TraceTagKey.LINKED_PROMPTS: linked})
    client.set_model_version_tag(of.model_name, str(version.version), URI, f"prompts:/{of.prompt_name}/{number}")


def _number(client: MlflowClient, of: Registration) -> int:
    """The version of the prompt with these bytes: the one there is, else a new one."""
    wanted = f"name = '{of.prompt_name}' and tags.`{_IS_PROMPT}` = 'true' and tags.`{SHA256}` = '{of.prompt_sha256}'"
    known = client.search_model_versions(wanted)
    if known:
        return min(int(one.version) for one in known)
    said = f"sha256 {of.prompt_sha256[:12]}"
    made = client.register_prompt(of.prompt_name, of.prompt_text, commit_message=said, tags={SHA256: of.prompt_sha256})
    return int(made.version)
