"""One rollout, whole: steps and clock, weights, stable against canary, verdict, what p and b would do, events. Pure."""

from __future__ import annotations

from console.tui.course import course_panel
from console.tui.page import beside, between, panel, split
from console.tui.plan_lines import event_words, plan_lines
from console.tui.rollout_rows import shown_weight, state_sign
from console.tui.signs import env_span, sign, tone_of, words
from console.tui.table import Column, Row, table_lines
from console.tui.text import (
    NOTHING,
    Line,
    bar,
    clock,
    count,
    cut,
    duration,
    line,
    millis,
    number,
    percent,
    whole_percent,
    wrap,
)
from engine.api.schemas import ArmView, CheckView, EventView, PlanView, RolloutView, StepView, VerdictView
from state.words import RolloutState

WIDE = 110
"""From this many cells on, panels stand beside each other."""


def rollout_page(rollout: RolloutView, now: float, width: int) -> list[Line]:
    """The whole page at a width."""
    head = _head(rollout, now, width)
    if width < WIDE:
        blocks = [
            *panel("steps", ladder(rollout, now, width - 4), width),
            *panel(verdict_title(rollout), verdict_lines(rollout, width - 4), width),
            *panel(_arms_title(rollout), _arms(rollout, width - 4), width),
            *course_panel(rollout.course, width),
            *_plans(rollout, width, beside_each_other=False),
            *panel("events", _events(rollout.events, width - 4), width),
        ]
        return [*head, *blocks]
    left, right = split(width, 0.46)
    steps, arms = ladder(rollout, now, left - 4), _arms(rollout, right - 4)
    height = max(len(steps), len(arms)) + 2
    return [
        *head,
        *beside(panel("steps", steps, left, height), panel(_arms_title(rollout), arms, right, height), left),
        *panel(verdict_title(rollout), verdict_lines(rollout, width - 4), width),
        *course_panel(rollout.course, width),
        *_plans(rollout, width, beside_each_other=True),
        *panel("events", _events(rollout.events, width - 4), width),
    ]


def _head(r: RolloutView, now: float, width: int) -> list[Line]:
    title = line(
        (f" {r.id}  ", "title"),
        (r.service, "strong"),
        (" in ", "dim"),
        env_span(r.env, r.protected),
        "  ",
        (r.from_release or "nothing", "stable"),
        (" → ", "dim"),
        (r.to_release, "canary"),
        (f"  {r.strategy}", "dim"),
    )
    over = RolloutState(r.state).is_terminal
    clock_words = (
        f"ended {clock(r.finished_at)} UTC, after {duration((r.finished_at or now) - r.created_at)}"
        if over
        else (f"{duration(now - r.state_since)} in this state, {duration(now - r.created_at)} in all")
    )
    lines = [
        between(title, line((f"revision {r.revision} ", "dim")), width),
        between(
            line(" ", *state_sign(r), ("  ·  " + clock_words, "dim")), line((f"begun by {r.created_by} ", "dim")), width
        ),
    ]
    said = r.verdict.sentence if r.verdict else ""
    for text, tone in (
        (r.why if r.why != said else "", "info"),
        (r.message if r.message not in (said, r.why) and r.message not in r.why else "", ""),
        (f"reason: {r.reason}" if r.reason else "", "dim"),
    ):
        if text:
            lines += [line(" ", *row) for row in wrap(text, width - 2, tone)[:2]]
    if r.registry_sync not in ("", "ok"):
        lines.append(line(" ", (f"registry: {words(r.registry_sync)}", "warn")))
    if r.warm_until is not None and r.warm_until > now and r.from_release:
        warm = f"{r.from_release} stays warm for {duration(r.warm_until - now)} more"
        lines.append(line(" ", (f"{warm}: rolling back is a weight change", "info")))
    return [*lines, ()]


def _step_state(step: StepView, r: RolloutView) -> Line:
    if step.idx == r.step and not RolloutState(r.state).is_terminal and step.state not in ("done", "passed"):
        return state_sign(r)
    if RolloutState(r.state).is_terminal and step.state == "pending":
        return sign("skipped", "not needed" if r.state == RolloutState.COMPLETED else "not reached")
    return sign(step.state)


def _what(step: StepView) -> str:
    """A step without a weight in few words: `pause 600 s`, `mirror copies of 10 %`."""
    return (
        f"{words(step.kind)} {step.says}"
        if step.kind in ("mirror", "pause") and step.says
        else step.says or words(step.kind)
    )


def ladder(r: RolloutView, now: float, width: int) -> list[Line]:
    lines: list[Line] = []
    over = RolloutState(r.state).is_terminal
    what_of = [f"{words(s.kind)} {s.weight} %" if s.weight else _what(s) for s in r.steps]
    wide = min(max(map(len, what_of), default=0) + 1, max(14, width // 2))
    for step, what in zip(r.steps, what_of, strict=True):
        current = step.idx == r.step and not over
        verdict = line("  ", *sign(step.verdict.kind)) if step.verdict and not current else ()
        elapsed = (now - step.started_at) if current and step.started_at is not None else step.elapsed_s
        shown = duration(elapsed) if step.started_at is not None else ""
        mark = ("▸ " if current else "  ", "accent")
        lines.append(
            between(
                line(
                    mark,
                    (f"{step.idx + 1}  ", "dim"),
                    (f"{what[: wide - 1]:<{max(wide, 14)}}", "strong" if current else ""),
                    *_step_state(step, r),
                    *verdict,
                ),
                line((shown, "accent" if current else "dim")),
                width,
            )
        )
    room = max(8, min(36, width - 30))
    lines += [
        (),
        line(("canary, configured  ", "dim"), (bar(shown_weight(r) / 100, room), "canary"), f"  {shown_weight(r)} %"),
        line(
            ("canary, measured    ", "dim"),
            (bar(None if r.measured_pct is None else r.measured_pct / 100, room), "canary"),
            f"  {whole_percent(r.measured_pct)}",
        ),
    ]
    return lines


def _arms_title(r: RolloutView) -> str:
    live = r.canary is not None and not RolloutState(r.state).is_terminal
    return f"stable against canary, since {r.weight} % was acknowledged" if live else "stable against canary"


def _share(arm: ArmView | None, bad: int) -> str:
    return NOTHING if arm is None else f"{count(bad)}  {percent(bad / arm.requests) if arm.requests else NOTHING:>7}"


def _arms(r: RolloutView, width: int) -> list[Line]:
    if r.stable is None and r.canary is None:
        return wrap(
            "no requests are compared yet: the judge counts from the moment both gateway workers have acknowledged the"
            " step's weight",
            width,
            "dim",
        )
    s, c = r.stable, r.canary

    def row(label: str, stable: str, canary: str) -> Row:
        return Row(label, (line((label, "dim")), line(stable), line(canary)))

    columns = (Column("", 16), Column("STABLE", 18, ">", most=26), Column("CANARY", 18, ">", most=26))
    body = table_lines(
        columns,
        [
            Row(
                "release",
                (
                    line(("release", "dim")),
                    line((s.release_id if s else NOTHING, "stable")),
                    line((c.release_id if c else NOTHING, "canary")),
                ),
            ),
            row("requests", count(s.requests if s else None), count(c.requests if c else None)),
            row("errors", _share(s, s.errors if s else 0), _share(c, c.errors if c else 0)),
            row("too slow", _share(s, s.slow if s else 0), _share(c, c.slow if c else 0)),
            row("p95", millis(s.p95_ms if s else None), millis(c.p95_ms if c else None)),
        ],
        width,
    )
    total = (s.requests if s else 0) + (c.requests if c else 0)
    if total and c:
        body += [(), line((f"{percent(c.requests / total)} of {count(total)} requests reached the canary", "dim"))]
    return body


def verdict_title(r: RolloutView) -> Line:
    return line(("verdict  ", "title"), *sign(r.verdict.kind)) if r.verdict else line(("verdict", "title"))


def needs(verdict: VerdictView) -> str:
    """`needs 412 more requests, about 3 m 12 s`; empty when nothing is known to be missing."""
    parts = []
    if verdict.needs_requests:
        parts.append(f"{count(verdict.needs_requests)} more requests")
    if verdict.needs_s:
        parts.append(f"about {duration(verdict.needs_s)}")
    return f"needs {', '.join(parts)}" if parts else ""


def verdict_lines(r: RolloutView, width: int) -> list[Line]:
    v = r.verdict
    if v is None:
        return [line(("not judged yet", "dim"))]
    lines = wrap(v.sentence, width, tone_of(v.kind) if v.kind == "FAIL" else "strong")
    facts_line = [f"step {v.step + 1}", f"at {clock(v.at)} UTC"]
    if v.guard:
        facts_line.append(f"decided by {words(v.guard)}")
    if v.cause:
        facts_line.append(f"cause: {words(v.cause)}")
    missing = needs(v)
    lines.append(line((missing, "warn"), ("  ·  " if missing else "", "dim"), ("  ·  ".join(facts_line), "dim")))
    if v.checks:
        lines += [(), *table_lines(_CHECK_COLUMNS, [_check(c) for c in v.checks], width)]
    return lines


_CHECK_COLUMNS = (
    Column("METRIC", 10, most=24),
    Column("VERDICT", 8, most=14),
    Column("BY", 6, most=40, keep=2),
    Column("STABLE", 7, ">"),
    Column("CANARY", 7, ">"),
    Column("INTERVAL", 15, ">", keep=3),
    Column("UPPER BOUND", 11, ">", keep=4),
    Column("LIMIT", 7, ">"),
    Column("E HARM", 7, ">", keep=5),
    Column("E PASS", 7, ">", keep=5),
    Column("NEEDED", 6, ">", keep=6),
)


def _check(c: CheckView) -> Row:
    interval = f"{percent(c.interval[0])} … {percent(c.interval[1])}" if c.interval else NOTHING
    return Row(
        c.metric,
        (
            line(words(c.metric)),
            sign(c.kind),
            line((words(c.route), "dim")),
            line(percent(c.stable_rate)),
            line(percent(c.canary_rate)),
            line(interval),
            line(percent(c.upper_bound)),
            line(percent(c.limit)),
            line((number(c.e_harm), "bad" if c.e_harm >= c.threshold else "")),
            line((number(c.e_pass), "ok" if c.e_pass >= c.threshold else "")),
            line((number(c.threshold), "dim")),
        ),
    )


def _plans(r: RolloutView, width: int, *, beside_each_other: bool) -> list[Line]:
    left, right = split(width) if beside_each_other else (width, width)
    promote = _plan_or_reason(r, "rollout.promote", r.promote_plan, left - 4)
    back = _plan_or_reason(r, "rollback", r.rollback_plan, right - 4)
    titles = (line(("p", "key"), (" next step would", "title")), line(("b", "key"), (" rollback would", "title")))
    if not beside_each_other:
        return [*panel(titles[0], promote, width), *panel(titles[1], back, width)]
    height = max(len(promote), len(back)) + 2
    return beside(panel(titles[0], promote, left, height), panel(titles[1], back, right, height), left)


def _plan_or_reason(r: RolloutView, verb: str, plan: PlanView | None, width: int) -> list[Line]:
    if verb in r.refusals:
        return [line(("not now: ", "dim"), *cut(line((r.refusals[verb], "warn")), width - 9))]
    return plan_lines(plan, width) if plan is not None else [line(("the panel asks the engine", "dim"))]


def _events(events: tuple[EventView, ...], width: int) -> list[Line]:
    if not events:
        return [line(("none", "dim"))]
    ordered = sorted(events, key=lambda e: -e.id)
    columns = (
        Column("UTC", 8),
        Column("WHO", 6, most=20),
        Column("WHAT", 10, most=28),
        Column("WHY", 8, most=200, flex=True),
    )
    rows = [
        Row(str(e.id), (line((clock(e.at), "dim")), line((e.actor, "dim")), line(e.action), line(event_words(e))))
        for e in ordered
    ]
    return table_lines(columns, rows, width)
