"""kill -9 of the engine during a rollout: it goes on where it was, and nobody outside notices."""

from __future__ import annotations

import random
import time

from chaos_workspace import CANARY, WHOLE_PATH, Workspace


def test_smoke(workspace) -> None:
    ws: Workspace = workspace()
    t=time.monotonic()
    ws.serve(); print("serve", time.monotonic()-t)
    users = ws.users(); print("users", time.monotonic()-t)
    ro = ws.deploy(); print("dep", time.monotonic()-t)
    seen=0
    while True:
        p=ws.path(ro)
        for x in p[seen:]: print(round(time.monotonic()-t,2), x)
        seen=len(p)
        if p and p[-1][0]=="completed": break
        time.sleep(.02)
        assert time.monotonic()-t<90, ws.log_tail()
    rep=users.stop(); print(rep)
    ws.assert_in_order(); print("order", time.monotonic()-t)
    ws.assert_serves_only(CANARY); print("only", time.monotonic()-t)
    print(ws.rows("select * from spawn")[0].keys())
