"""Stage `collect`: read the text that a model is to be made of, wherever it is, and keep it as documents.

Writes `documents.jsonl` ({"name", "text"} a line; text may be null) and `source.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from engine.pipelines.stage import StageContext, StageResult
from engine.pipelines.stages.settings import Settings, settings_of, write_facts
from engine.pipelines.stages.text_source import read_source, topics

DOCUMENTS = "documents.jsonl"
SOURCE = "source.json"


class CollectSettings(Settings):
    """`text`: a file or folder, relative to the workspace; None is the interpreter's own help topics."""

    text: str | None = None
    max_bytes: int = Field(default=64_000_000, ge=1)


def run(ctx: StageContext) -> StageResult:
    """Collect the documents. Raises TextRefused before anything is written."""
    settings = settings_of(CollectSettings, ctx)
    if settings.text is None:
        source = topics()
    else:
        workspace = Path(str(ctx.context.get("workspace") or "."))
        source = read_source(workspace / Path(settings.text).expanduser(), settings.max_bytes)
    with (ctx.out_dir / DOCUMENTS).open("w", encoding="utf-8") as file:
        for document in source.documents:
            file.write(json.dumps({"name": document.name, "text": document.text}, ensure_ascii=False) + "\n")
    chars = sum(len(document.text or "") for document in source.documents)
    facts = {"source": source.name, "documents": len(source.documents), "chars": chars, "skipped": list(source.skipped)}
    write_facts(ctx.out_dir / SOURCE, facts)
    ctx.progress(documents=len(source.documents), chars=chars, skipped=len(source.skipped))
    return StageResult(
        metrics={"documents": len(source.documents), "chars": chars, "skipped_files": len(source.skipped)},
        facts={"source": facts},
    )
