"""Rows and pages say what a person has to know, from canned objects."""

from __future__ import annotations

from typing import Any

from console.tui.chrome import banners, key_bar, top_line
from console.tui.fleet_page import fleet_page
from console.tui.fleet_rows import FLEET, fleet_row
from console.tui.item_page import item_page
from console.tui.lineage_rows import lineage_rows, node_ref
from console.tui.listing import Listing
from console.tui.narrowing import Narrowing
from console.tui.record_rows import ALERTS, alert_row, audit_row, release_row, replica_row, slo_row
from console.tui.rollout_page import rollout_page
from console.tui.rollout_rows import rollout_row
from console.tui.run_rows import current_stage, run_row, stage_row
from console.tui.scene import Frame, Lost, Scene, Scope
from console.tui.text import Line, line_width, plain
from console.wire import Address
from engine.api.schemas import AdapterView, DrillView, EventView, StatusView
from state.words import Unreachable


def text(lines: list[Line]) -> str:
    return "\n".join(plain(row) for row in lines)


def test_a_fleet_row_tells_release_weights_latency_errors_budget_and_phase(world: Any) -> None:
    shown = fleet_row(world.fleet_row(), world.now).text
    for wanted in (
        "chat",
        "production",
        "charlm-1",
        "stable 50 %",
        "canary 50 %",
        "38.2",
        "402 ms",
        "0.21 %",
        "62 %",
        "baking",
        "▲ 1 alert",
    ):
        assert wanted in shown


def test_what_is_unknown_is_a_dash_not_a_zero(world: Any) -> None:
    row = fleet_row(world.fleet_row(budget_left=None, p95_ms=None, error_ratio=None, coverage=None), world.now)
    cells = [plain(c) for c in row.cells]
    assert cells.count("–") >= 4
    assert "0 %" not in cells


def test_a_page_outweighs_other_alerts_and_a_hold_is_named(world: Any) -> None:
    shown = fleet_row(world.fleet_row(paging=2, held_by="user:bob", frozen="until 18:00"), world.now).text
    assert "2 paging" in shown
    assert "held by user:bob" in shown
    assert "frozen" in shown


def test_a_scope_narrows_by_environment_and_text_and_its_inverse(world: Any) -> None:
    frame = Frame(world.snapshot())

    def shown(listing: Listing[Any], scope: Scope) -> list[Any]:
        return list(Narrowing(listing).of(frame, scope))

    assert len(shown(FLEET, Scope())) == 3
    assert [r.env for r in shown(FLEET, Scope(env="staging"))] == ["staging"]
    assert [r.service for r in shown(FLEET, Scope(filter="SUMM"))] == ["summarize"]
    assert {r.service for r in shown(FLEET, Scope(filter="!summ"))} == {"chat"}
    assert len(shown(ALERTS, Scope())) == 1
    assert len(shown(ALERTS, Scope(history=True))) == 2


def test_the_rollout_page_tells_steps_clock_weights_arms_verdict_and_plans(world: Any) -> None:
    for width in (79, 159):
        shown = text(rollout_page(world.rollout(), world.now, width))
        for wanted in (
            "ro-2",
            "chat in production",
            "charlm-1 → charlm-2",
            "step baking",
            "34 s in this state",
            "weight 25 %",
            "PASS",
            "configured",
            "50 %",
            "measured",
            "49.6 %",
            "1,204",
            "1,187",
            "0.25 %",
            "INCONCLUSIVE",
            "needs 412 more requests, about 3 m 12 s",
            "next step would",
            "rollback would",
            "rollout.begin",
        ):
            assert wanted in shown, (width, wanted)
        assert max(line_width(row) for row in rollout_page(world.rollout(), world.now, width)) <= width


def test_a_step_of_many_words_does_not_run_into_its_state(world: Any) -> None:
    steps = world.rollout().steps
    copies = steps[0].model_copy(update={"kind": "mirror", "weight": 0, "says": "copies of 50 %"})
    shown = text(rollout_page(world.rollout(steps=(copies, *steps[1:])), world.now, 120))
    assert "mirror copies of 50 % ✓ passed" in shown


def test_a_refused_verb_says_why_where_its_plan_would_stand(world: Any) -> None:
    shown = text(rollout_page(world.rollout("rolling_back"), world.now, 120))
    assert "not now: a rollback, once begun, only goes on" in shown
    assert "not now: it is rolling back already" in shown


def test_a_pause_names_its_reason_and_the_end_its_time(world: Any) -> None:
    assert "paused (no data)" in rollout_row(world.rollout("paused", pause_reason="no_data"), world.now).text
    assert "after 3 m 00 s" in text(
        rollout_page(world.rollout("rolled_back", finished_at=world.now - 20), world.now, 120)
    )


def test_a_run_shows_its_stages_and_the_one_that_runs(world: Any) -> None:
    run = world.run()
    assert current_stage(run).name == "train"
    shown = run_row(run, world.now).text
    assert "≡≡✓▸···" in shown
    assert "train" in shown
    assert "70 %" in shown
    stages = "\n".join(stage_row(s, world.now).text for s in run.stages)
    assert "cached" in stages
    assert "loss 2.013" in stages
    assert "✓ 1" in stages


def test_the_other_lists_say_what_they_are_for(world: Any) -> None:
    snapshot = world.snapshot()
    assert "burn_rate_fast" in alert_row(snapshot.alerts[0], world.now).text
    assert "nobody" in alert_row(snapshot.alerts[0], world.now).text
    assert "1h 1.2×" in slo_row(snapshot.slos[0], world.now).text
    assert "3d –" in slo_row(snapshot.slos[0], world.now).text
    assert "ready" in replica_row(snapshot.serving[1], world.now).text
    assert "chat/production" in release_row(snapshot.releases[1], world.now).text
    assert "user:alice" in audit_row(snapshot.audit[2], world.now).text


def test_lineage_is_a_tree_whose_rows_name_records(world: Any) -> None:
    rows = lineage_rows(world.lineage)
    drawn = [plain(r.cells[0]) for r in rows]
    assert drawn[0] == "chat in production"
    assert drawn[1] == "└─ serves charlm-1"
    assert "│  ├─ read" in drawn[3]
    assert node_ref(rows[1]) == "release/charlm-1"
    assert len({r.key for r in rows}) == len(rows)


def test_every_object_can_be_described_at_any_width(world: Any) -> None:
    snapshot = world.snapshot()
    items = [
        snapshot.rollouts[0],
        snapshot.runs[0],
        snapshot.releases[0],
        snapshot.alerts[0],
        snapshot.slos[0],
        snapshot.serving[0],
        snapshot.audit[0],
        snapshot.fleet[0],
    ]
    for item in items:
        for width in (30, 80, 160):
            assert max(line_width(row) for row in item_page(item, width)) <= width
    for width in (60, 80, 160):
        assert max(line_width(row) for row in fleet_page(snapshot.fleet[0], snapshot, width)) <= width


def test_hostile_names_stay_text_in_every_row(world: Any) -> None:
    evil = "[/x][red]\x1b[31m\u202e日本"
    rows = [
        fleet_row(world.fleet_row(service=evil, held_by=evil), 0.0),
        alert_row(world.alert(summary=evil), 0.0),
        rollout_row(world.rollout(message=evil, to_release=evil), 0.0),
        audit_row(EventView(id=1, at=0, actor=evil, action=evil, ref=evil, reason=evil, detail={evil: evil}), 0.0),
    ]
    for row in rows:
        assert "[/x][red]␛[31m" in row.text
        assert row.text.isprintable()
    assert text(rollout_page(world.rollout(message=evil, reason=evil), 0.0, 100)).replace("\n", "").isprintable()


def test_the_top_bar_names_the_environment_in_a_word_and_says_what_is_wrong(world: Any) -> None:
    scene = Scene(frame=Frame(world.snapshot()))
    assert "PRODUCTION · protected" in plain(top_line(scene, ("production", True), 120))
    assert "DEV" in plain(top_line(scene, ("dev", False), 80))
    assert "protected" not in plain(top_line(scene, ("dev", False), 80))
    status = world.snapshot().status.model_copy(
        update={"gateway_ready": 1, "adapters": {"registry": "down: refused"}, "audit_ok": False}
    )
    broken = plain(top_line(Scene(frame=Frame(world.snapshot(status=status))), ("", False), 140))
    assert "✗ gateway 1/2" in broken
    assert "registry down" in broken
    assert "audit chain" in broken
    assert "no one is paged" in broken


def test_a_store_that_takes_no_writes_is_a_banner(world: Any) -> None:
    assert banners(Scene(frame=Frame(world.snapshot(status=quiet(world)))), 200) == []
    locked = quiet(world, store_trouble="process 42 (sqlite3) has held /srv/demo/.airboss/state.db locked for 30 s")
    (said,) = banners(Scene(frame=Frame(world.snapshot(status=locked))), 200)
    assert "nothing can be written: process 42 (sqlite3)" in plain(said) and "--emergency" in plain(said)


def quiet(world: Any, **changes: Any) -> StatusView:
    status: StatusView = world.snapshot().status
    return status.model_copy(update={"demo": {}, **changes})


def test_the_top_bar_says_since_when_a_server_outside_is_down_and_what_goes_on(world: Any) -> None:
    gone = AdapterView(name="registry", error="refused", since=world.now - 240, goes_on="traffic")
    status = world.snapshot().status.model_copy(update={"down": (gone,), "adapters": {"registry": "cannot be reached"}})
    scene = Scene(frame=Frame(world.snapshot(status=status)))
    shown = plain(top_line(scene, None, 200))
    assert "▲ registry down 4 m 00 s (goes on: traffic)" in shown
    assert shown.count("registry") == 1


def test_the_top_bar_has_the_age_of_the_newest_backup_and_of_the_last_drill(world: Any) -> None:
    drill = DrillView(id=9, name="rollback", at=world.now - 3 * 86400, service="chat", env="staging", outcome="missed",
                      by="user:ana", measured={"last_user_s": 7.0}, target_s=5.0, message="")  # fmt: skip
    kept = {"backup_at": world.now - 1500, "drill": drill, "state": "paused (restored)"}
    status = world.snapshot().status.model_copy(update=kept)
    shown = plain(top_line(Scene(frame=Frame(world.snapshot(status=status))), None, 200))
    assert "backup 25 m" in shown and "drill 3 d" in shown and "paused (restored)" in shown
    late = status.model_copy(update={"backup_trouble": "the newest backup is 130 minutes old"})
    assert "▲ backup" in plain(top_line(Scene(frame=Frame(world.snapshot(status=late))), None, 90))


def test_banners_for_a_lost_engine_a_held_screen_and_a_demo(world: Any) -> None:
    status = world.snapshot().status.model_copy(
        update={"demo": {"act": "act 3 of 4: Advance", "message": "judging [/x]", "started_at": world.now - 75}}
    )
    lost = Lost(since=world.now + 3, now=world.now + 17, error=Unreachable("gone"), address=Address(socket="/s"))
    shown = text(banners(Scene(frame=Frame(world.snapshot(status=status)), lost=lost, held=True), 160))
    assert "engine unreachable since 20:26:43" in shown
    assert "as of 20:26:40 (17 s ago)" in shown
    assert "screen held" in shown
    assert "act 3 of 4: Advance · 1 m 15 s · judging [/x]" in shown


def test_refused_keys_are_dim_in_the_key_bar(world: Any) -> None:
    scene = Scene(frame=Frame(world.snapshot()))
    tones = {t.strip(): tone for t, tone in key_bar("rollout", world.rollout("rolling_back"), scene, 160)}
    assert tones["p"] == "key.off"
    assert tones["b"] == "key.off"
    assert tones["d"] == "key"
    assert {t.strip(): tone for t, tone in key_bar("rollout", world.rollout(), scene, 160)}["p"] == "key"
