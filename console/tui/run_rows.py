"""Pipeline runs: the list, the stages of one, and what is known of the selected stage. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from console.tui.listing import Listing
from console.tui.log_lines import shown_facts
from console.tui.page import beside, between, facts
from console.tui.scene import Frame, Scope
from console.tui.signs import GLYPHS, sign
from console.tui.table import Column, Row, table_lines
from console.tui.text import NOTHING, Line, bar, chart, clock, duration, line, number, percent, wrap
from engine.api.schemas import GateView, RunView, StageView
from state.words import RunState

COLUMNS = (
    Column("RUN", 6, most=14),
    Column("PIPELINE", 8, most=20),
    Column("STATE", 12, most=16),
    Column("STAGES", 7, most=24),
    Column("NOW", 10, most=44, flex=True, keep=2),
    Column("TOOK", 9, ">"),
    Column("RELEASE", 8, most=20, keep=1),
    Column("BEGUN UTC", 9, keep=3),
    Column("BY", 4, most=16, keep=4),
)
STAGE_COLUMNS = (
    Column("STAGE", 9, most=20),
    Column("STATE", 12, most=16),
    Column("TOOK", 9, ">"),
    Column("TRY", 3, ">", keep=5),
    Column("PROGRESS", 20, most=46, keep=2),
    Column("GATES", 6, most=20, keep=1),
    Column("RESULT", 8, most=90, flex=True, keep=3),
)


def ladder(run: RunView) -> Line:
    """A glyph for each stage."""
    return line(*((GLYPHS.get(s.state, ("•", "")))[0:2] for s in run.stages))


BELOW = frozenset({"sample", "lr"})
"""Progress that is shown with the selected stage, not in its row."""


def current_stage(run: RunView) -> StageView | None:
    """The stage to look at first: the one that runs, else the one that failed, else the last that began."""
    for wanted in (lambda s: s.state == RunState.RUNNING, lambda s: s.error, lambda s: s.started_at is not None):
        found = [s for s in run.stages if wanted(s)]
        if found:
            return found[-1]
    return run.stages[0] if run.stages else None


def took(stage: StageView | RunView, now: float) -> str:
    """How long it took, or has taken so far."""
    begun = stage.started_at if isinstance(stage, StageView) else stage.created_at
    return NOTHING if begun is None else duration((stage.finished_at or now) - begun)


def done_share(progress: Mapping[str, Any]) -> float | None:
    """How much of a stage is done, from its `step` and `steps` (or `done`/`total`)."""
    for part, whole in (("step", "steps"), ("done", "total")):
        a, b = progress.get(part), progress.get(whole)
        if isinstance(a, int | float) and isinstance(b, int | float) and b > 0:
            return a / b
    return None


def progress_line(stage: StageView, width: int = 14) -> Line:
    """A stage's progress as a bar with its numbers."""
    share = done_share(stage.progress)
    rest = ", ".join(f"{k} {v}" for k, v in shown_facts(stage.progress) if k not in BELOW)
    if stage.state != RunState.RUNNING:
        return line((str(stage.progress.get("why", "")), "dim"))
    return (
        line((bar(share, width), "accent"), f" {percent(share, 0)} ", (rest, "dim"))
        if share is not None
        else line(rest)
    )


def now_words(run: RunView) -> Line:
    """What a run does at the moment, or why it ended."""
    stage = current_stage(run)
    if RunState(run.state).is_over:
        return line((run.error or (stage.error if stage else ""), "bad" if run.error else "dim"))
    return line(stage.name, "  ", *progress_line(stage, 10)) if stage else line("")


def run_row(run: RunView, now: float) -> Row:
    """A run as a row."""
    return Row(
        run.id,
        (
            line((run.id, "strong")),
            line(run.pipeline),
            sign(run.state),
            ladder(run),
            now_words(run),
            line((took(run, now), "dim")),
            line(run.release_id or NOTHING),
            line((clock(run.created_at), "dim")),
            line((run.created_by, "dim")),
        ),
    )


def gates_line(stage: StageView) -> Line:
    """`✓ 3` where all gates passed, else which failed."""
    if not stage.gates:
        return line((NOTHING, "dim"))
    failed = [g for g in stage.gates if not g.passed]
    if not failed:
        return line((f"✓ {len(stage.gates)}", "ok"))
    blocking = any(g.blocking for g in failed)
    return line((f"✗ {', '.join(g.name for g in failed)}", "bad" if blocking else "warn"))


def stage_row(stage: StageView, now: float) -> Row:
    """A stage as a row."""
    result = (
        line((stage.error, "bad"))
        if stage.error
        else line((", ".join(f"{k} {number(v)}" for k, v in stage.metrics.items()), "dim"))
    )
    return Row(
        stage.name,
        (
            line((stage.name, "strong" if stage.state == RunState.RUNNING else "")),
            sign(stage.state),
            line((took(stage, now), "dim")),
            line((str(stage.attempt), "dim")),
            progress_line(stage),
            gates_line(stage),
            result,
        ),
    )


def run_head(run: RunView, now: float, width: int) -> list[Line]:
    """The lines above a run's stages."""
    params = ", ".join(f"{k} = {number(v)}" for k, v in run.params.items())
    lines = [
        between(
            line(
                (f" {run.id} ", "title"),
                " ",
                (run.pipeline, "strong"),
                "  ",
                *sign(run.state),
                (f"  ·  {took(run, now)}", "dim"),
            ),
            line((f"begun by {run.created_by} at {clock(run.created_at)} UTC ", "dim")),
            width,
        ),
    ]
    if run.release_id:
        lines.append(line((" makes release ", "dim"), (run.release_id, "accent")))
    if params:
        lines.append(line((f" {params}", "dim")))
    if run.error:
        lines += [line(" ", *row) for row in wrap(run.error, width - 2, "bad")[:3]]
    return lines


_GATE_COLUMNS = (
    Column("GATE", 10, most=40),
    Column("VALUE", 8, ">"),
    Column("", 2),
    Column("LIMIT", 8, ">"),
    Column("", 10, most=24),
)


def _gate(g: GateView) -> Row:
    word = "passed" if g.passed else "failed, blocks" if g.blocking else "failed, warns"
    return Row(
        g.name,
        (
            line(g.name),
            line(NOTHING if g.value is None else number(g.value)),
            line((g.op, "dim")),
            line(number(g.limit)),
            sign("PASS" if g.passed else "FAIL", word),
        ),
    )


def loss_curve(progress: Mapping[str, Any]) -> list[float]:
    """Losses in order, from `step:loss` pairs; empty where there are none."""
    pairs = (pair.partition(":")[2] for pair in str(progress.get("loss_curve", "")).split())
    found = []
    for text in pairs:
        try:
            found.append(float(text))
        except ValueError:
            return []
    return found


def _learning(stage: StageView, curve: list[float], width: int) -> list[Line]:
    """The training loss drawn, and beside it what else is known of the learning."""
    graph_width = min(48, width // 2)
    stretched = [curve[int(i * len(curve) / graph_width)] for i in range(graph_width)]
    floor = min(curve) * 0.9
    graph = [line((row, "accent")) for row in chart([v - floor for v in stretched], graph_width, 4)]
    graph.append(line((f"loss {number(curve[0])} → {number(curve[-1])}", "dim")))
    pairs: list[tuple[str, str | Line]] = [(k.replace("_", " "), v) for k, v in shown_facts(stage.progress)]
    return beside(graph, facts(pairs, width - graph_width - 3), graph_width, 3)


def stage_detail(stage: StageView, width: int) -> list[Line]:
    """The selected stage's gates, metrics and error."""
    lines: list[Line] = wrap(stage.error, width, "bad") if stage.error else []
    curve = loss_curve(stage.progress)
    if len(curve) > 1:
        lines += _learning(stage, curve, width)
    if stage.gates:
        lines += table_lines(_GATE_COLUMNS, [_gate(g) for g in stage.gates], width)
    if stage.metrics:
        lines += [*([()] if lines else []), *facts([(k, number(v)) for k, v in stage.metrics.items()], width)]
    return lines


def _objects(frame: Frame, _scope: Scope) -> Sequence[RunView]:
    return frame.snapshot.runs


RUNS = Listing(
    view="runs",
    columns=COLUMNS,
    objects=_objects,
    key=lambda r: r.id,
    row=run_row,
    empty="no run yet: `:pipeline run NAME` starts one",
)
