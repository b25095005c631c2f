"""Stage `snapshot`: freeze what was collected, paragraph by paragraph, under a manifest of sha256 digests.

Writes `data/train.jsonl`, `data/heldout.jsonl` and `manifest.json`. It holds the text as it came, personal data
included: it never leaves the workspace. What models and registries get is made by `validate`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from pydantic import Field

from engine.pipelines.stage import StageContext, StageResult
from engine.pipelines.stages.collect import DOCUMENTS, SOURCE
from engine.pipelines.stages.corpus import SPLITS, read_lines, records_of, write_lines
from engine.pipelines.stages.settings import Settings, read_facts, settings_of, write_facts
from state.digests import canonical_json, hash_tree, text_sha256

DATA = "data"
MANIFEST = "manifest.json"


class SnapshotSettings(Settings):
    """`heldout_pct`: percent of paragraphs that no model is trained on."""

    heldout_pct: int = Field(default=10, ge=1, le=50)


def run(ctx: StageContext) -> StageResult:
    """Split, copy, and write the manifest."""
    settings = settings_of(SnapshotSettings, ctx)
    source = read_facts(ctx.inputs["collect"] / SOURCE)
    records = list(records_of(read_lines(ctx.inputs["collect"] / DOCUMENTS), settings.heldout_pct))
    (ctx.out_dir / DATA).mkdir()
    for split in SPLITS:
        write_lines(ctx.out_dir / DATA / f"{split}.jsonl", (r.to_json() for r in records if r.split == split))
    rows = Counter(record.split for record in records)
    manifest = {
        "source": source["source"],
        "heldout_pct": settings.heldout_pct,
        "rows": {split: rows[split] for split in SPLITS},
        "chars": sum(len(record.text or "") for record in records),
        "files": [asdict(file) for file in hash_tree(ctx.out_dir / DATA)],
    }
    write_facts(ctx.out_dir / MANIFEST, manifest)
    sha256 = text_sha256(canonical_json(manifest))
    ctx.progress(rows=len(records), sha256=sha256)
    metrics = {"rows": len(records), "heldout_rows": rows["heldout"], "chars": manifest["chars"]}
    return StageResult(metrics=metrics, facts={"snapshot": {"sha256": sha256, **manifest}})
