"""Palettes: what each tone looks like, dark, light, and in the terminal's own sixteen colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.style import Style
from textual.theme import Theme


@dataclass(frozen=True, slots=True)
class Palette:
    """A base style and a style for each tone."""

    base: Style
    tones: Mapping[str, Style]
    stale: Style
    """Everything in this one while the engine is gone."""
    cursor: Style

    def style(self, tone: str, *, stale: bool = False) -> Style:
        """The style of a tone over the base; badges and banners keep theirs when stale."""
        if stale and not tone.startswith(("badge.", "banner.")):
            return self.base + self.stale
        return self.base + self.tones[tone] if tone in self.tones else self.base


@dataclass(frozen=True, slots=True)
class _Colours:
    back: str
    raised: str
    text: str
    strong: str
    dim: str
    frame: str
    accent: str
    ok: str
    warn: str
    bad: str
    info: str
    canary: str
    cursor: str
    bad_back: str
    warn_back: str
    open_back: str


_DARK = _Colours(
    back="#10141b",
    raised="#1a212c",
    text="#c5cdd8",
    strong="#f0f3f7",
    dim="#7f8b9b",
    frame="#2f3a4a",
    accent="#7cb0f7",
    ok="#86c98f",
    warn="#e3b85c",
    bad="#f0716d",
    info="#6fc3d6",
    canary="#e8a05c",
    cursor="#25344c",
    bad_back="#7d2a2f",
    warn_back="#5e4a18",
    open_back="#1f4a52",
)
_LIGHT = _Colours(
    back="#fbfbf9",
    raised="#eceef1",
    text="#2b3340",
    strong="#0d1117",
    dim="#697586",
    frame="#c3cad4",
    accent="#1f5fbf",
    ok="#1f7a35",
    warn="#8a5b00",
    bad="#b3261e",
    info="#0b6e82",
    canary="#a8510c",
    cursor="#d5e3f8",
    bad_back="#f3c7c4",
    warn_back="#f5e2b3",
    open_back="#c9e6ea",
)


def _palette(c: _Colours) -> Palette:
    return Palette(
        base=Style(color=c.text, bgcolor=c.back),
        stale=Style(color=c.dim),
        cursor=Style(bgcolor=c.cursor),
        tones={
            "title": Style(color=c.strong, bold=True),
            "strong": Style(color=c.strong, bold=True),
            "head": Style(color=c.dim, bold=True),
            "dim": Style(color=c.dim),
            "frame": Style(color=c.frame),
            "accent": Style(color=c.accent),
            "key": Style(color=c.accent, bold=True),
            "key.off": Style(color=c.frame),
            "ok": Style(color=c.ok),
            "warn": Style(color=c.warn),
            "bad": Style(color=c.bad, bold=True),
            "info": Style(color=c.info),
            "stable": Style(color=c.accent),
            "canary": Style(color=c.canary),
            "env.protected": Style(color=c.bad),
            "env.open": Style(color=c.info),
            "bar": Style(color=c.text, bgcolor=c.raised),
            "bar.dim": Style(color=c.dim, bgcolor=c.raised),
            "bar.brand": Style(color=c.accent, bgcolor=c.raised, bold=True),
            "bar.strong": Style(color=c.strong, bgcolor=c.raised, bold=True),
            "bar.ok": Style(color=c.ok, bgcolor=c.raised),
            "bar.warn": Style(color=c.warn, bgcolor=c.raised, bold=True),
            "bar.bad": Style(color=c.bad, bgcolor=c.raised, bold=True),
            "tab": Style(color=c.dim),
            "tab.on": Style(color=c.strong, bold=True, underline=True),
            "badge.protected": Style(color=c.strong, bgcolor=c.bad_back, bold=True),
            "badge.open": Style(color=c.strong, bgcolor=c.open_back, bold=True),
            "badge.on": Style(color=c.back, bgcolor=c.accent, bold=True),
            "banner.demo": Style(color=c.strong, bgcolor=c.open_back),
            "banner.held": Style(color=c.strong, bgcolor=c.warn_back, bold=True),
            "banner.lost": Style(color=c.back, bgcolor=c.dim, bold=True),
        },
    )


_ANSI = Palette(
    base=Style(),
    stale=Style(dim=True),
    cursor=Style(reverse=True),
    tones={
        "title": Style(bold=True),
        "strong": Style(bold=True),
        "head": Style(bold=True, dim=True),
        "dim": Style(dim=True),
        "frame": Style(dim=True),
        "accent": Style(color="cyan"),
        "key": Style(color="cyan", bold=True),
        "key.off": Style(dim=True),
        "ok": Style(color="green"),
        "warn": Style(color="yellow"),
        "bad": Style(color="red", bold=True),
        "info": Style(color="cyan"),
        "stable": Style(color="cyan"),
        "canary": Style(color="magenta"),
        "env.protected": Style(color="red"),
        "env.open": Style(color="cyan"),
        "bar": Style(),
        "bar.dim": Style(dim=True),
        "bar.brand": Style(color="cyan", bold=True),
        "bar.strong": Style(bold=True),
        "bar.ok": Style(color="green"),
        "bar.warn": Style(color="yellow", bold=True),
        "bar.bad": Style(color="red", bold=True),
        "tab": Style(dim=True),
        "tab.on": Style(bold=True, underline=True),
        "badge.protected": Style(color="red", reverse=True, bold=True),
        "badge.open": Style(color="cyan", reverse=True),
        "badge.on": Style(reverse=True, bold=True),
        "banner.demo": Style(reverse=True),
        "banner.held": Style(color="yellow", reverse=True),
        "banner.lost": Style(reverse=True, bold=True),
    },
)

PALETTES: dict[str, Palette] = {
    "airboss-dark": _palette(_DARK),
    "airboss-light": _palette(_LIGHT),
    "airboss-ansi": _ANSI,
}


def _theme(name: str, c: _Colours, *, dark: bool) -> Theme:
    return Theme(
        name=name,
        dark=dark,
        primary=c.accent,
        secondary=c.info,
        warning=c.warn,
        error=c.bad,
        success=c.ok,
        accent=c.canary,
        foreground=c.text,
        background=c.back,
        surface=c.raised,
        panel=c.raised,
        variables={
            "scrollbar": c.frame,
            "scrollbar-background": c.back,
            "scrollbar-hover": c.dim,
            "input-cursor-background": c.text,
            "input-cursor-foreground": c.back,
        },
    )


THEMES: tuple[Theme, ...] = (
    _theme("airboss-dark", _DARK, dark=True),
    _theme("airboss-light", _LIGHT, dark=False),
    Theme(
        name="airboss-ansi",
        ansi=True,
        dark=True,
        primary="ansi_cyan",
        secondary="ansi_cyan",
        warning="ansi_yellow",
        error="ansi_red",
        success="ansi_green",
        accent="ansi_magenta",
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        variables={
            "ansi-background": "ansi_black",
            "ansi-foreground": "ansi_white",
            "input-cursor-text-style": "reverse",
        },
    ),
)


def palette_of(theme: str) -> Palette:
    """The palette of a theme of ours; the terminal's own colours for any other."""
    return PALETTES.get(theme, _ANSI)


def choose_theme(environ: Mapping[str, str]) -> str:
    """The theme for a terminal: `AIRBOSS_THEME` (dark, light, ansi), else by what the terminal says of itself."""
    asked = environ.get("AIRBOSS_THEME", "auto")
    if asked in ("dark", "light", "ansi"):
        return f"airboss-{asked}"
    if "NO_COLOR" in environ:
        return "airboss-ansi"
    term = environ.get("TERM", "")
    background = environ.get("COLORFGBG", "").rpartition(";")[2]
    if background in ("7", "15"):
        return "airboss-light"
    if environ.get("COLORTERM") in ("truecolor", "24bit") or "256color" in term or "direct" in term:
        return "airboss-dark"
    return "airboss-ansi"
