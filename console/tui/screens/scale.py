"""`S`: the scale and traffic menu. It only opens; the confirm panel acts."""

from __future__ import annotations

from console.tui.acts import MenuChoice
from console.tui.screens.asks import MenuScreen
from console.tui.signs import env_badge
from console.tui.text import Line, line, wrap


class ScaleScreen(MenuScreen):
    """What may be done to a service's capacity and traffic."""

    def __init__(self, service: str, env: str, protected: bool, choices: tuple[MenuChoice, ...], advice: str) -> None:
        super().__init__(choices)
        self._service, self._env, self._protected, self._advice = service, env, protected, advice

    def head(self, width: int) -> list[Line]:
        """Of what."""
        return [
            line(
                ("scale and traffic  ", "title"),
                (self._service, "strong"),
                "  ",
                *env_badge(self._env, self._protected),
            )
        ]

    def foot(self, width: int) -> list[Line]:
        """Where the number of replicas is said."""
        return [(), *wrap(self._advice, width, "dim")]
