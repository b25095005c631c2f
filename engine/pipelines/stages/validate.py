"""Stage `validate`: is the snapshot fit to train on? Checks, redaction, and the data set that models really see.

Writes `data/train.txt` and `data/heldout.txt` (redacted, without missing and outlying records), `statistics.json` and
`manifest.json`. The manifest's sha256 is the data set's identity in releases, lineage and the registry: it names
the frozen snapshot it was made from, the redaction rules and the bytes that were trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import Field

from engine.pipelines.stage import Gate, StageContext, StageResult
from engine.pipelines.stages import snapshot
from engine.pipelines.stages.corpus import HELDOUT, SPLITS, TRAIN, Record, read_lines
from engine.pipelines.stages.redaction import RULES_VERSION, redact, remaining
from engine.pipelines.stages.settings import Settings, read_facts, settings_of, write_facts
from engine.pipelines.stages.text_statistics import outlier_reason, statistics_of
from state.digests import canonical_json, hash_tree, text_sha256

DATA = "data"
MANIFEST = "manifest.json"
STATISTICS = "statistics.json"


class ValidateSettings(Settings):
    """The limits of the data gates; the rates are shares of records."""

    max_missing_rate: float = Field(default=0.01, gt=0, le=1)
    max_outlier_rate: float = Field(default=0.005, gt=0, le=1)
    max_duplicate_rate: float = Field(default=0.5, gt=0, le=1)
    min_chars: int = Field(default=5_000, ge=1)
    min_heldout_chars: int = Field(default=500, ge=1)


@dataclass(slots=True)
class Findings:
    """What was found in the records, and the clean text of each split."""

    rows: int = 0
    schema_errors: int = 0
    missing: int = 0
    duplicates: int = 0
    unredacted: int = 0
    outliers: Counter[str] = field(default_factory=Counter)
    redactions: Counter[str] = field(default_factory=Counter)
    clean: dict[str, list[str]] = field(default_factory=lambda: {split: [] for split in SPLITS})

    def rate(self, count: int) -> float | None:
        """A share of all records; None, which passes no gate, when there are none."""
        return count / self.rows if self.rows else None


def run(ctx: StageContext) -> StageResult:
    """Check every record, redact what is personal, write the clean data set."""
    settings = settings_of(ValidateSettings, ctx)
    source_dir = ctx.inputs["snapshot"]
    frozen = read_facts(source_dir / snapshot.MANIFEST)
    found = examine(
        (split, value) for split in SPLITS for value in read_lines(source_dir / snapshot.DATA / f"{split}.jsonl")
    )
    ctx.progress(rows=found.rows, redactions=sum(found.redactions.values()))
    texts = {split: "\n\n".join(parts) for split, parts in found.clean.items()}
    (ctx.out_dir / DATA).mkdir()
    for split, text in texts.items():
        (ctx.out_dir / DATA / f"{split}.txt").write_text(text, encoding="utf-8", newline="")
    write_facts(ctx.out_dir / STATISTICS, {split: statistics_of(text).to_json() for split, text in texts.items()})
    manifest = {
        "source": frozen["source"],
        "snapshot_sha256": text_sha256(canonical_json(frozen)),
        "redaction_rules": RULES_VERSION,
        "redactions": dict(sorted(found.redactions.items())),
        "rows": sum(len(parts) for parts in found.clean.values()),
        "chars": sum(len(text) for text in texts.values()),
        "files": [asdict(file) for file in hash_tree(ctx.out_dir / DATA)],
    }
    write_facts(ctx.out_dir / MANIFEST, manifest)
    return StageResult(
        metrics=_metrics(found, texts),
        gates=_gates(found, texts, settings),
        facts={"dataset": {**dataset_facts(manifest), "path": DATA}},
    )


def dataset_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is recorded of the data set that `manifest` describes."""
    sha256 = text_sha256(canonical_json(manifest))
    return {
        "id": sha256[:12],
        "sha256": sha256,
        "name": manifest["source"],
        "source": manifest["source"],
        "rows": manifest["rows"],
        "chars": manifest["chars"],
        "redactions": manifest["redactions"],
        "snapshot_sha256": manifest["snapshot_sha256"],
    }


def examine(values: Iterable[tuple[str, Any]]) -> Findings:
    """Go through (split, JSON value) pairs; only records that are whole, present and no outlier stay."""
    found = Findings()
    seen: set[str] = set()
    for record in _records(values, found):
        if record.text is None or not record.text.strip():
            found.missing += 1
            continue
        key = text_sha256(" ".join(record.text.split()))
        found.duplicates += key in seen
        seen.add(key)
        if reason := outlier_reason(record.text):
            found.outliers[reason] += 1
            continue
        redacted = redact(record.text)
        found.redactions.update(redacted.counts)
        if redacted.counts:  # a text in which nothing was found is as it was: there is nothing left in it either
            found.unredacted += remaining(redacted.text)
        found.clean[record.split].append(redacted.text)
    return found


def _records(values: Iterable[tuple[str, Any]], found: Findings) -> Iterator[Record]:
    for split, value in values:
        found.rows += 1
        record = _record(split, value)
        if record is None:
            found.schema_errors += 1
        else:
            yield record


def _record(split: str, value: Any) -> Record | None:
    """The record that a JSON value is; None when it is none."""
    if not isinstance(value, dict) or set(value) != {"document", "position", "split", "text"}:
        return None
    document, position, text = value["document"], value["position"], value["text"]
    well_typed = isinstance(document, str) and type(position) is int and (text is None or isinstance(text, str))
    return Record(document, position, split, text) if well_typed and value["split"] == split else None


def _metrics(found: Findings, texts: dict[str, str]) -> dict[str, float]:
    metrics: dict[str, float] = {
        "rows": found.rows,
        "schema_errors": found.schema_errors,
        "missing": found.missing,
        "outliers": found.outliers.total(),
        "duplicates": found.duplicates,
        "redactions": found.redactions.total(),
        "train_chars": len(texts[TRAIN]),
        "heldout_chars": len(texts[HELDOUT]),
    }
    for kind, counts in (("outliers", found.outliers), ("redacted", found.redactions)):
        metrics.update({f"{kind}.{name}": count for name, count in sorted(counts.items())})
    return metrics


def _gates(found: Findings, texts: dict[str, str], settings: ValidateSettings) -> tuple[Gate, ...]:
    return (
        Gate("schema_errors", found.schema_errors, 0, "<="),
        Gate("missing_rate", found.rate(found.missing), settings.max_missing_rate, "<"),
        Gate("outlier_rate", found.rate(found.outliers.total()), settings.max_outlier_rate, "<"),
        Gate("duplicate_rate", found.rate(found.duplicates), settings.max_duplicate_rate, "<", blocking=False),
        Gate("unredacted", found.unredacted, 0, "<="),
        Gate("train_chars", len(texts[TRAIN]), settings.min_chars, ">="),
        Gate("heldout_chars", len(texts[HELDOUT]), settings.min_heldout_chars, ">="),
    )
