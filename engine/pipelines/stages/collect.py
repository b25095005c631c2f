"""Stage `collect`: read the text that a model is to be made of, wherever it is, and keep it as documents.

Writes `documents.jsonl` ({"name", "text"} a line; text may be null) and `source.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from engine.datasets.build import DOCUMENTS as BUILT_DOCUMENTS
from engine.datasets.build import dataset_of
from engine.pipelines.stage import StageContext, StageResult
from engine.pipelines.stages.settings import Settings, settings_of, write_facts
from engine.pipelines.stages.text_source import Document, Source, read_source, topics

DOCUMENTS = "documents.jsonl"
SOURCE = "source.json"


class CollectSettings(Settings):
    """`text`: a file or folder, relative to the workspace; None is the interpreter's own help topics. `also`: more beside it."""

    text: str | None = None
    also: str | None = None
    max_bytes: int = Field(default=64_000_000, ge=1)


def run(ctx: StageContext) -> StageResult:
    """Collect the documents. Raises TextRefused before anything is written."""
    settings = settings_of(CollectSettings, ctx)
    workspace = Path(str(ctx.context.get("workspace") or "."))
    source = topics() if settings.text is None else read_source(_place(workspace, settings.text), settings.max_bytes)
    included = [one["id"] for name in (settings.text, settings.also) if name and (one := dataset_of(workspace / name))]
    if settings.also:
        more = read_source(_place(workspace, settings.also), settings.max_bytes)
        source = Source(
            f"{source.name} + {more.name}",
            (*source.documents, *(Document(f"{more.name}/{d.name}", d.text) for d in more.documents)),
            (*source.skipped, *more.skipped),
        )
    with (ctx.out_dir / DOCUMENTS).open("w", encoding="utf-8") as file:
        for document in source.documents:
            file.write(json.dumps({"name": document.name, "text": document.text}, ensure_ascii=False) + "\n")
    chars = sum(len(document.text or "") for document in source.documents)
    facts = {"source": source.name, "documents": len(source.documents), "chars": chars, "skipped": list(source.skipped)}
    write_facts(ctx.out_dir / SOURCE, facts)
    ctx.progress(documents=len(source.documents), chars=chars, skipped=len(source.skipped))
    return StageResult(
        metrics={"documents": len(source.documents), "chars": chars, "skipped_files": len(source.skipped)},
        facts={"source": facts, **({"included": included} if included else {})},
    )


def _place(workspace: Path, name: str) -> Path:
    """The file or folder meant: of a data set that was built, its documents alone."""
    path = workspace / Path(name).expanduser()
    return path / BUILT_DOCUMENTS if dataset_of(path) else path
