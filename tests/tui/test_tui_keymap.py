"""The registry of keys: one place, no clash, nothing dangerous on letters that end escape sequences."""

from __future__ import annotations

from textual import actions
from textual.binding import Binding

from console.tui.keymap import ALL, BY_ID, ESCAPE_FINALS, KEYS, LISTS, footer_keys, key_of_verb
from console.tui.scene import Scene
from console.tui.screens.base import ConsoleScreen, bindings
from console.tui.screens.pick import palette_entries
from engine.verbs import VERBS


def test_no_two_keys_clash_and_each_has_help() -> None:
    pressed = [k for key in KEYS for k in key.keys]
    assert len(pressed) == len(set(pressed))
    assert all(key.help and key.group and key.views for key in KEYS)


def test_letters_that_end_escape_sequences_are_bound_to_nothing() -> None:
    assert not {k for key in KEYS if key.id != "scale" for k in key.keys} & ESCAPE_FINALS


def test_the_one_that_is_opens_a_menu_and_does_nothing_else() -> None:
    assert BY_ID["scale"].keys == ("S",) and not BY_ID["scale"].acts


def test_every_verb_with_a_key_has_the_same_key_here() -> None:
    for verb in VERBS.values():
        if verb.key:
            key = key_of_verb(verb.name)
            assert key is not None, verb.name
            assert verb.key in key.keys, verb.name


def test_every_verb_of_the_registry_exists() -> None:
    assert {v for key in KEYS for v in key.verbs} <= set(VERBS)


def test_no_acting_key_has_priority_and_every_binding_parses() -> None:
    for binding in bindings():
        assert isinstance(binding, Binding)
        assert not binding.priority
        name, parameters = actions.parse(binding.action)[1:]
        assert name == "key"
        assert parameters[0] in BY_ID
        assert binding.id == parameters[0]


def test_the_footer_has_eight_keys_at_most_at_80_columns_and_always_help() -> None:
    for view in ALL:
        for width in (40, 80, 120, 160):
            keys = footer_keys(view, width - 1)
            assert keys[-1].id == "help"
            assert len(keys) <= (8 if width <= 80 else 16)
            assert sum(len(k.show) + len(k.label) + 3 for k in keys) <= width


def test_the_views_are_on_the_numbers() -> None:
    assert [BY_ID[f"view_{n}"].keys for n in range(1, 9)] == [(str(n),) for n in range(1, 9)]
    assert len(LISTS) == 8


def test_the_palette_names_every_verb_that_has_no_key(world: type) -> None:
    entries = palette_entries("rollout", world.rollout(), Scene())
    labels = " ".join(e.label for e in entries)
    for name in ("deploy", "freeze start", "pipeline run", "rollout promote full", "rollback"):
        assert name in labels


def test_every_key_that_looks_or_goes_has_a_handler() -> None:
    import inspect

    from console.tui.screens import base, lists, pages, run

    source = "".join(inspect.getsource(module) for module in (base, lists, pages, run))
    for key in KEYS:
        if not key.acts and key.group != "move" and not key.id.startswith("view_"):
            assert f'"{key.id}"' in source, key.id
    assert ConsoleScreen.BINDINGS
