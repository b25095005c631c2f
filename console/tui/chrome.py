"""What stands around every view: the top bar, the tabs, the banners, the key bar. Pure."""

from __future__ import annotations

from console.tui.acts import refusal
from console.tui.keymap import LISTS, VIEW_TITLES, footer_keys
from console.tui.page import between
from console.tui.scene import Item, Scene
from console.tui.signs import env_badge
from console.tui.text import Line, clock, duration, line, pad, safe
from engine.api.schemas import StatusView

BAR = "bar"
_TROUBLE = ("down", "unreach", "refus", "fail", "error", "time", "gone", "broke", "dead", "cannot", "not ")
"""What an adapter's state says when something is wrong with it."""


def top_line(scene: Scene, env: tuple[str, bool] | None, width: int) -> Line:
    """Product, workspace, environment in word and colour (`env` with an empty name: all of them, None: it has none).

    On the right how the engine and what it runs do.
    """
    snapshot = scene.snapshot
    name = snapshot.status.name if snapshot else ""
    badge = () if env is None else env_badge(*env) if env[0] else line((" all environments ", "bar.dim"))
    left = line(
        (" ▲ airboss ", "bar.brand"),
        (f" {name} " if name else " ", "bar.strong"),
        ("  ", BAR),
        *badge,
        ("  read-only " if scene.read_only else "", "bar.warn"),
    )
    right = (
        _health(snapshot.status, scene, wide=width >= 110, roomy=width >= 132)
        if snapshot
        else line(("connecting… ", "bar.dim"))
    )
    return between(left, right, width, BAR)


def _health(status: StatusView, scene: Scene, *, wide: bool, roomy: bool) -> Line:
    if scene.lost is not None:
        return line(("✗ engine unreachable ", "bar.bad"))
    spans: list[tuple[str, str]] = []
    if status.state not in ("running", "up", "ok", "ready", ""):
        spans.append((f"‖ {status.state}  ", "bar.warn"))
    ready = status.gateway_ready == status.gateway_workers and status.gateway_workers > 0
    spans.append(
        (
            f"{'●' if ready else '✗'} gateway {status.gateway_ready}/{status.gateway_workers}",
            "bar.ok" if ready else "bar.bad",
        )
    )
    if wide:
        spans.append((f" {status.gateway.removeprefix('http://')}", "bar.dim"))
    whole = status.replicas_ready == status.replicas
    spans.append(
        (
            f"  {'●' if whole else '▲'} replicas {status.replicas_ready}/{status.replicas}",
            "bar.ok" if whole else "bar.warn",
        )
    )
    since = {gone.name: gone.since for gone in status.down}
    spans += [(f"  ▲ {safe(name)} down {duration(scene.now - at)}", "bar.warn") for name, at in since.items()]
    if since and roomy:
        spans.append((f" (goes on: {safe(status.down[0].goes_on)})", "bar.dim"))
    down = [
        name
        for name, state in status.adapters.items()
        if any(word in state.lower() for word in _TROUBLE) and name not in since
    ]
    if down:
        spans.append((f"  ▲ {', '.join(down)} down", "bar.warn"))
    if not status.audit_ok:
        spans.append(("  ✗ audit chain", "bar.bad"))
    if status.backup_trouble:
        spans.append(("  ▲ backup", "bar.warn"))
    elif roomy and status.backup_at is not None:
        spans.append((f"  backup {duration(scene.now - status.backup_at)}", "bar.dim"))
    if roomy and status.drill is not None:
        tone = "bar.dim" if status.drill.outcome == "met" else "bar.warn"
        spans.append((f"  drill {duration(scene.now - status.drill.at)}", tone))
    if wide and status.no_one_is_paged:
        spans.append(("  ▲ no one is paged", "bar.warn"))
    return line(*spans, (" ", BAR))


def tabs(view: str, scene: Scene, width: int) -> Line:
    """The views and their numbers; alerts carry their count."""
    spans: list[tuple[str, str]] = [(" ", "")]
    active = sum(1 for a in scene.snapshot.alerts if a.state == "active") if scene.snapshot else 0
    for number, name in enumerate(LISTS, start=1):
        title = VIEW_TITLES[name] if width >= 72 else VIEW_TITLES[name][:5]
        on = name == view
        spans += [(f"{number} ", "key"), (title, "tab.on" if on else "tab")]
        if name == "alerts" and active:
            spans.append((f" ▲{active}", "bad"))
        spans.append((" " if width < 90 else "   ", ""))
    return pad(line(*spans), width)


def banners(scene: Scene, width: int) -> list[Line]:
    """What must not be overlooked: the engine gone, the screen held, a demo playing."""
    lines: list[Line] = []
    if scene.lost is not None:
        lost = scene.lost
        if scene.frame is not None:
            text = (
                f" ✗ engine unreachable since {clock(lost.since)} UTC; showing data as of {clock(scene.now)}"
                f" ({duration(lost.now - scene.now)} ago) · reconnecting by itself · b: how to roll back without it"
            )
        else:
            text = f" ✗ {lost.error.message} · {lost.error.hint or 'start it with `airboss up -d`'} · this screen goes on trying"
        lines.append(_banner(text, "banner.lost", width))
    elif scene.snapshot is not None and (trouble := scene.snapshot.status.store_trouble):
        text = f" ✗ nothing can be written: {safe(trouble)} · what serves goes on · `airboss rollback --emergency` rolls back"
        lines.append(_banner(text, "banner.lost", width))
    if scene.held:
        lines.append(
            _banner(f" ‖ screen held as of {clock(scene.now)} UTC; the work goes on · f: go on", "banner.held", width)
        )
    demo = scene.snapshot.status.demo if scene.snapshot else {}
    if demo:
        act, message = safe(str(demo.get("act", ""))), safe(str(demo.get("message", "")))
        act = f"act {act}" if act.isdigit() else act
        begun, elapsed = demo.get("started_at"), demo.get("elapsed_s")
        took = scene.now - begun if isinstance(begun, int | float) else elapsed
        since = f" · {duration(took)}" if isinstance(took, int | float) else ""
        lines.append(_banner(f" ▸ demo · {act}{since}{' · ' if act else ''}{message}", "banner.demo", width))
    return lines


def _banner(text: str, tone: str, width: int) -> Line:
    return pad(line((text, tone)), width, tone=tone)


def key_bar(view: str, item: Item | None, scene: Scene, width: int) -> Line:
    """The keys of a view; those that are refused now are dim."""
    spans: list[tuple[str, str]] = [(" ", "")]
    for key in footer_keys(view, width - 1):
        off = key.acts and bool(
            scene.read_only or (scene.lost and key.id != "rollback") or refusal(key.id, item, scene.snapshot)
        )
        spans += [(key.show, "key.off" if off else "key"), (f" {key.label}  ", "key.off" if off else "dim")]
    return pad(line(*spans), width)
