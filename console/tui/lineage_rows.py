"""The lineage tree as rows: a record, how it is joined to the one above, and what it was made from. Pure."""

from __future__ import annotations

from console.tui.signs import words
from console.tui.table import Column, Row
from console.tui.text import line
from engine.api.schemas import LineageNode

COLUMNS = (
    Column("RECORD", 30, most=90, flex=True),
    Column("KIND", 10, most=20),
    Column("REFERENCE", 12, most=60, keep=1),
)
KIND_TONES = {
    "service": "strong",
    "release": "accent",
    "run": "info",
    "dataset": "ok",
    "prompt": "canary",
    "commit": "dim",
    "code": "dim",
    "model": "accent",
    "model_version": "accent",
    "person": "warn",
    "user": "warn",
}


def lineage_rows(root: LineageNode) -> list[Row]:
    """Every node, a row each, drawn as a tree; a row's key is its path, for a record may appear twice."""
    rows: list[Row] = []

    def visit(node: LineageNode, stem: str, branch: str, path: str) -> None:
        edge = f"{words(node.edge)} " if node.edge else ""
        tone = KIND_TONES.get(node.kind, "")
        key = f"{path}/{node.ref}"
        rows.append(
            Row(
                key,
                (
                    line((stem + branch, "frame"), (edge, "dim"), (node.label or node.ref, tone)),
                    line((words(node.kind), "dim")),
                    line((node.ref, "dim")),
                ),
            )
        )
        below = stem + ("" if not branch else "   " if branch.startswith("└") else "│  ")
        for index, child in enumerate(node.children):
            visit(child, below, "└─ " if index == len(node.children) - 1 else "├─ ", f"{key}#{index}")

    visit(root, "", "", "")
    return rows


def node_ref(row: Row) -> str:
    """The reference of the record in a row."""
    return "".join(text for text, _ in row.cells[2])
