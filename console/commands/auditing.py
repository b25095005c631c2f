"""`audit export`: the chain as JSON lines, read from the store's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from console.output import Outcome, Text
from state.words import Conflict, OperationFailed

if TYPE_CHECKING:
    from console.commands.context import Context


def export(context: Context, *, to: Path | None, after: int) -> Outcome:
    """Write the rows after `after`. Times stay as they were hashed: Unix seconds, all digits."""
    from console.offline import OfflineStore

    if to is not None and to.exists():
        raise Conflict(f"{to} is there already; it was not touched", hint="name a new file", code="exists")
    store = OfflineStore.open(context.paths)
    lines = (json.dumps(row, sort_keys=True) + "\n" for row in store.chain(after))
    try:
        if to is None:
            context.output.stream.writelines(lines)
            return Outcome.printed()
        with to.open("x", encoding="utf-8") as file:
            count = sum(1 for line in lines if file.write(line))
    except OSError as error:
        if to is None:
            raise
        raise OperationFailed(f"{to} cannot be written: {error.strerror}", hint="name another file") from error
    finally:
        store.close()
    return Outcome(
        "AuditExport",
        [{"path": str(to), "rows": count}],
        blocks=(Text(f"{count} rows in {to}"),),
        names=(str(to),),
    )
