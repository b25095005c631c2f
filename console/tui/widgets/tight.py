"""Partial updates that send only the cells asked for.

textual 8.2 sends each dirty span from the left edge of its widget (`ChopsUpdate.render_segments` crops the right end
only), which on a line of 160 cells is ten times what changed. This crops both ends.
"""

from __future__ import annotations

from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate


class TightUpdate(ChopsUpdate):
    """A ChopsUpdate whose spans begin where they say."""

    def render_segments(self, console: Console) -> str:
        """The update as the terminal takes it."""
        parts: list[str] = []
        for y, x1, x2 in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= x2 or end <= x1:
                    continue
                left = max(x, x1)
                parts.append(Control.move_to(left, y).segment.text)
                parts.append(strip.crop(left - x, min(end, x2) - x).render(console))
        return "".join(parts)


def tightened(renderable: object) -> object:
    """The same update, sent tightly; anything but a partial update as it is."""
    if type(renderable) is ChopsUpdate:
        return TightUpdate(renderable.chops, renderable.spans, renderable.chop_ends)
    return renderable
