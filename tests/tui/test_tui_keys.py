"""Each key against a real server on a Unix socket: what is on screen, and what became of the world."""

from __future__ import annotations

from typing import Any

import pytest

from console.tui.screens.lists import ListScreen


async def test_the_numbers_open_the_views(desk: Any) -> None:
    wanted = ("ro-2", "run-3", "charlm-2", "99.5 %", "burn_rate_fast", "m-99ff0011", "looks good")
    async with desk() as d:
        for key, text in zip("2345678", wanted, strict=True):
            await d.press(key)
            await d.shows(text)
        await d.press("1")
        await d.shows("SERVICE", "summarize")


@pytest.mark.parametrize("size", [(80, 24), (160, 48), (40, 10)])
async def test_it_opens_on_the_fleet_at_any_size(desk: Any, size: tuple[int, int]) -> None:
    async with desk(size=size) as d:
        await d.shows("airbo", "chat", "? help")
        for key in "2345678":
            await d.press(key)
        await d.press("2", "enter")
        await d.shows("ro-2")


async def test_enter_goes_into_a_rollout_and_esc_comes_back_to_the_same_row(desk: Any) -> None:
    async with desk() as d:
        await d.press("2", "down", "up", "enter")
        await d.shows("needs 412 more requests", "rollback would", "rollout.begin")
        await d.press("escape")
        await d.until(lambda: isinstance(d.app.screen, ListScreen) and d.app.screen.item.id == "ro-2")


async def test_a_run_shows_its_stages_and_follows_the_log(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("3", "enter")
        await d.shows("log of train", "step 20 loss 3.2", "following")
        engine.logs["train"] += "step 30 [/x] \x1b[31mloss 2.9\n"
        engine.change()
        await d.shows("step 30 [/x] ␛[31mloss 2.9")
        await d.press("l")
        await d.shows("standing still")
        await d.press("up")
        await d.shows("log of validate")


async def test_the_cursor_stays_on_its_object_when_rows_move(desk: Any, engine: Any, world: Any) -> None:
    async with desk() as d:
        await d.press("2")
        await d.until(lambda: d.app.screen.item is not None and d.app.screen.item.id == "ro-2")
        engine.change(rollouts=(world.rollout("planned", id="ro-9"), *engine.world.rollouts))
        await d.shows("ro-9")
        assert d.app.screen.item.id == "ro-2"
        await d.press("b")
        await d.shows("rollback", "same as")
        assert "charlm" in d.text or "chat" in d.text


async def test_filter_narrows_and_esc_clears_before_it_goes_back(desk: Any) -> None:
    async with desk() as d:
        await d.press("slash", *"summ")
        await d.until(lambda: "summarize" in d.text and "staging" not in d.text)
        await d.press("enter")
        await d.shows("filter 'summ'")
        await d.press("escape")
        await d.shows("staging")
        await d.press("slash", *"!chat", "enter")
        await d.until(lambda: "summarize" in d.text and "staging" not in d.text)


async def test_letters_in_a_filter_are_text_and_run_nothing(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("slash", *"zbxpt", "escape")
        assert engine.done == []
        assert len(d.app.screen_stack) == 2


async def test_p_n_y_promotes_with_the_revision_shown(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("2", "p")
        await d.shows("next step", "to 100 % at once", "PRODUCTION · protected")
        await d.armed()
        await d.press("n")
        await d.shows("airboss rollout promote ro-2 --yes")
        await d.armed()
        await d.press("y")
        await d.until(lambda: engine.world.rollouts[0].state == "step_applying")
        await d.shows("✓ rollout.promote on rollout/ro-2 is under way")
        assert engine.done[-1].expect_revision == 12


async def test_b_y_rolls_back_from_the_fleet(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("b")
        await d.shows("chat canary", "takes about 2 s", "airboss rollback chat --env production --yes")
        await d.armed()
        await d.press("y")
        await d.until(lambda: engine.world.rollouts[0].state == "rolling_back")


async def test_b_inside_a_rollout_too_and_x_z_t(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("2", "enter")
        await d.shows("rollout.begin")
        await d.press("z")
        await d.until(lambda: engine.world.rollouts[0].state == "paused")
        await d.shows("paused (manual)")
        await d.press("z")
        await d.shows("Resume")
        await d.armed()
        await d.press("y")
        await d.until(lambda: engine.world.rollouts[0].state == "step_baking")
        await d.shows("step baking")
        await d.press("x")
        await d.shows("Abort")
        await d.armed()
        await d.press("y")
        await d.until(lambda: engine.world.rollouts[0].state == "rolling_back")
        await d.shows("rolling back")
        await d.press("t")
        await d.shows("t: only an ended, failed rollout can be tried again")


async def test_a_refused_key_says_why(desk: Any, engine: Any) -> None:
    async with desk() as d:
        engine.change_rollout("rolling_back")
        await d.shows("rolling back")
        await d.press("b")
        await d.shows("b: it is rolling back already")
        await d.press("p")
        await d.until(lambda: "a rollback, once begun, only goes on" in d.text)


async def test_a_moved_world_is_refused_in_words(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("b")
        await d.armed()
        engine.change_rollout("step_applying")
        engine.refuse = {
            "code": "conflict",
            "exit": 6,
            "message": "rollout ro-2 is at revision 13, not 12",
            "retryable": False,
            "hint": "look again",
        }
        await d.press("y")
        await d.shows("✗ rollout ro-2 is at revision 13, not 12 · look again")


async def test_a_acks_and_h_shows_history(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("6", "a")
        await d.until(lambda: engine.world.alerts[0].acked_by == "user:me")
        await d.shows("user:me")
        await d.press("a")
        await d.shows("somebody has acknowledged it already")
        await d.press("h")
        await d.shows("resolved", "user:bob")


async def test_g_shows_the_lineage_both_ways_and_enter_opens_a_node(desk: Any) -> None:
    async with desk() as d:
        await d.press("g")
        await d.shows("run-1 of charlm", "sha256 0a1b2c")
        await d.press("g")
        await d.shows("chat answers users")
        await d.press("g")
        await d.shows("run-1 of charlm")
        await d.press("down", "enter")
        await d.shows("model version")


async def test_d_describes_and_c_copies(desk: Any) -> None:
    async with desk() as d:
        await d.press("4", "d")
        await d.shows("git commit", "0123abc", "model.n_layer")
        await d.press("c")
        await d.shows("copied release/charlm-2")
        assert d.app.clipboard == "release/charlm-2"


async def test_f_holds_the_screen_still_and_lets_it_go_on(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("f")
        await d.shows("screen held")
        engine.change(fleet=(engine.world.fleet[0].model_copy(update={"service": "renamed"}),))
        await d.pilot.pause(0.5)
        assert "renamed" not in d.text
        await d.press("f")
        await d.shows("renamed")


async def test_help_is_searchable_and_runs_a_key(desk: Any) -> None:
    async with desk() as d:
        await d.press("question_mark")
        await d.shows("keys on Fleet", "promote menu")
        await d.press(*"what pages")
        await d.shows("no key does that")
        await d.press("ctrl+u", *"audit log", "ctrl+u", *"author")
        await d.press("enter")
        await d.until(lambda: d.app.screen.view == "audit")


async def test_the_palette_says_why_a_verb_may_not_run(desk: Any) -> None:
    async with desk() as d:
        await d.press("2", "ctrl+p")
        await d.shows("every verb", "not now: it is not paused", "freeze start")


async def test_the_command_line_shows_views_narrowed_and_says_what_it_does_not_know(desk: Any) -> None:
    pytest.importorskip("console.commands.grammar")
    async with desk() as d:
        await d.press("colon", *"rollouts", "enter")
        await d.until(lambda: d.app.screen.view == "rollouts")
        await d.press("colon", *"fleet @staging", "enter")
        await d.until(lambda: "STAGING" in d.text and "summarize" not in d.text)
        await d.press("0")
        await d.shows("summarize", "all environments")
        await d.press("colon", *"frobnicate", "enter")
        await d.shows("✗ there is no command 'frobnicate'")


async def test_a_verb_typed_after_colon_asks_like_a_key(desk: Any, engine: Any) -> None:
    pytest.importorskip("console.commands.grammar")
    async with desk() as d:
        await d.press("colon", *"rollout abort ro-2", "enter")
        await d.shows("abort", "PRODUCTION · protected")
        assert engine.done == []
        await d.armed()
        await d.press("y")
        await d.until(lambda: engine.world.rollouts[0].state == "rolling_back")


async def test_a_note_is_kept(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("n")
        await d.shows("a note on service/chat")
        await d.pilot.pause(0.3)
        await d.press(*"handed over", "enter")
        await d.until(lambda: bool(engine.done))
        assert engine.done[0].args == {"text": "handed over"}


async def test_read_only_refuses_every_acting_key(desk: Any, engine: Any) -> None:
    async with desk(read_only=True) as d:
        await d.shows("read-only")
        for key in "pbxzt":
            await d.press(key)
            await d.shows(f"{key}: this console is read-only")
        assert engine.done == []


async def test_a_lost_engine_greys_the_screen_keeps_the_data_and_comes_back_by_itself(desk: Any, engine: Any) -> None:
    async with desk(size=(160, 40)) as d:
        engine.stop()
        await d.shows("engine unreachable since", "showing data as of", "chat")
        await d.press("p")
        await d.shows("p: the engine is unreachable")
        await d.press("b")
        await d.shows("airboss rollback chat --env production --emergency")
        await d.press("escape")
        engine.start()
        await d.until(lambda: "engine unreachable" not in d.text and "● gateway 2/2" in d.text)


async def test_with_no_engine_from_the_start_it_says_how_to_start_one(desk: Any, engine: Any) -> None:
    engine.stop()
    async with desk() as d:
        await d.shows("airboss up -d")
        await d.press("b")
        await d.shows("--emergency")
        await d.press("escape")
        engine.start()
        await d.shows("charlm-1")


async def test_hostile_names_are_shown_and_harm_nothing(desk: Any, engine: Any, world: Any) -> None:
    evil = "[/x][red]\x1b[31m\u202e"
    engine.change(
        fleet=(world.fleet_row(service=evil),),
        rollouts=(world.rollout(message=evil, service=evil),),
        alerts=(world.alert(summary=evil),),
        status=engine.world.status.model_copy(update={"name": evil, "demo": {"act": evil, "message": evil}}),
    )
    async with desk(size=(160, 45)) as d:
        await d.shows("[/x][red]␛[31m")
        for key in ("2", "enter", "escape", "6", "d", "escape", "1", "b"):
            await d.press(key)
            assert "\x1b" not in d.text
            assert "\u202e" not in d.text
        await d.shows("[/x][red]␛[31m")


async def test_q_goes_back_and_at_the_top_leaves_with_zero(desk: Any) -> None:
    async with desk() as d:
        await d.press("2", "enter", "q")
        await d.until(lambda: d.app.screen.view == "rollouts")
        await d.press("escape")
        await d.shows("q or ctrl+q leaves")
        await d.press("q")
        await d.until(lambda: not d.app.is_running or d.app.return_code is not None)
        assert d.app.return_code == 0


async def test_nothing_is_repainted_when_nothing_changed(desk: Any, engine: Any) -> None:
    async with desk(size=(160, 48)) as d:
        await d.pilot.pause(0.3)
        painted: list[str] = []
        from console.tui.widgets.line_table import LineTable
        from console.tui.widgets.lines import Lines

        for widget in d.app.screen.query("*"):
            if isinstance(widget, LineTable | Lines):

                def counted(y: int, real: Any = widget.render_line, name: str = str(widget.id)) -> Any:
                    painted.append(f"{name}:{y}")
                    return real(y)

                widget.render_line = counted  # type: ignore[method-assign]
        await d.pilot.pause(1.6)
        assert painted == []
        engine.change(fleet=(engine.world.fleet[0].model_copy(update={"rps": 99.9}), *engine.world.fleet[1:]))
        await d.shows("99.9")
        assert [p for p in painted if p.startswith("table")] == ["table:1"]
