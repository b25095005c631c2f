"""A release's prompt in MLflow's prompt registry, and the link from the model to it.

MLflow's own `link_prompt_version_to_model` writes to the process's global tracking store, which is none of ours, so the tag
that it sets (its user interface shows the link by it) is set here through the client that is open.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from adapters.mlflow_errors import clear_errors
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


def follow_alias(client: MlflowClient, model_name: str, alias: str, version: str) -> None:
    """Have the prompt of the model's version carry the alias MODEL-ALIAS: several models may share a prompt, and each moves its own.

    Nothing happens for a version without a prompt. Repeating it changes nothing. Raises as `clear_errors` does.
    """
    with clear_errors(f"alias {alias} of {model_name} is set; that of its prompt cannot be"):
        if (prompt := _prompt_of(client, model_name, version)) is not None:
            client.set_prompt_alias(prompt[0], alias_on_prompt(model_name, alias), prompt[1])


def drop_followed(client: MlflowClient, model_name: str, alias: str, version: str) -> None:
    """The alias leaves the prompt of the version that the model's alias is taken from; "" for none."""
    if version and (prompt := _prompt_of(client, model_name, version)) is not None:
        client.delete_prompt_alias(prompt[0], alias_on_prompt(model_name, alias))


def alias_on_prompt(model_name: str, alias: str) -> str:
    """`support-bot-champion`: `prompts:/NAME@support-bot-champion` loads the prompt of what the model has as its champion."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', model_name)}-{alias}"[-255:]


def _prompt_of(client: MlflowClient, model_name: str, version: str) -> tuple[str, int] | None:
    uri = client.get_model_version(model_name, version).tags.get(URI, "")
    name, _, number = uri.removeprefix("prompts:/").rpartition("/")
    return (name, int(number)) if name and number.isdigit() else None


def _number(client: MlflowClient, of: Registration) -> int:
    """The version of the prompt with these bytes: the one there is, else a new one."""
    wanted = f"name = '{of.prompt_name}' and tags.`{_IS_PROMPT}` = 'true' and tags.`{SHA256}` = '{of.prompt_sha256}'"
    known = client.search_model_versions(wanted)
    if known:
        return min(int(one.version) for one in known)
    said = f"sha256 {of.prompt_sha256[:12]}"
    made = client.register_prompt(of.prompt_name, of.prompt_text, commit_message=said, tags={SHA256: of.prompt_sha256})
    return int(made.version)
