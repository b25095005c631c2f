"""A stage that is a command of the user's: run by the shell where its files are, its outputs then kept by content.

It works on the workspace's own paths, as its author runs it by hand. So that two runs never mix: locks on every path it reads or
writes, inputs put in place as their stages kept them, outputs copied into the cache before the locks go.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.executing import CommandFailed, Work
from engine.pipelines.dvc_lock import FILE as DVC_LOCK
from engine.pipelines.dvc_lock import DvcStage, entry_of, record, up_to_date
from engine.pipelines.executors import executor_of
from engine.pipelines.stage import ADOPTED, PROGRESS_NAME, Gate, StageContext, StageResult, say
from engine.pipelines.stages.metric_files import read_metrics
from state.digests import FileDigest, bundle_digest, file_sha256, text_sha256
from state.gates import parse_gate

OUTS = "outs"
"""Below a stage's outputs: what it wrote, at the same paths as in the workspace."""
LOCKS = Path(".airboss") / "cache" / "paths"


def run(ctx: StageContext) -> StageResult:
    """Put the inputs in place, run the command, keep what it wrote, look at its metrics."""
    workspace, given = Path(str(ctx.context["workspace"])), ctx.params
    outs: list[str] = list(given["outs"])
    dvc = DvcStage.from_json(given["dvc"]) if given.get("dvc") else None
    facts: dict[str, Any] = {}
    with _workplace(workspace, [ctx.inputs[stage] for stage in given["from_stages"]], outs):
        made = up_to_date(dvc, workspace) if dvc and not ctx.forced else None
        if made is not None:
            say(stage=ctx.stage, message=f"{DVC_LOCK} says that its outputs are there: the command need not run")
            facts[ADOPTED] = DVC_LOCK
            _take(made, workspace)
        else:
            _make(ctx, workspace, outs)
        for path in outs:
            _keep(workspace, path, ctx.out_dir / OUTS)
        if dvc:
            facts["dvc"] = entry_of(dvc, workspace, ctx.out_dir / OUTS)
            record(workspace, dvc, facts["dvc"])
    metrics = read_metrics(workspace, given["metrics"])
    return StageResult(metrics, tuple(_gate(text, metrics) for text in given["gates"]), facts)


def _make(ctx: StageContext, workspace: Path, outs: Sequence[str]) -> None:
    """Run the commands on a clean place, wherever the stage says."""
    given = ctx.params

    def clean() -> None:
        for path in outs:
            if path not in given["persist"]:
                _remove(workspace / path)
            (workspace / path).parent.mkdir(parents=True, exist_ok=True)

    read = [path for stage in given["from_stages"] for path in _kept_paths(ctx.inputs[stage])]
    outside = [str(value) for name, value in given.items() if name.startswith("dep:")]
    work = Work(
        ctx.run_id, ctx.stage, ctx.key, ctx.attempt, workspace, given["cwd"], tuple(given["commands"]), _environment(ctx),
        takes=tuple(dict.fromkeys((*outside, *read))), gives=tuple(outs), keeps=tuple(given["persist"]),
        may_give=tuple(path for path in given["metrics"] if path not in outs), timeout_s=ctx.timeout_s,
    )  # fmt: skip
    executor_of(ctx.executor, workspace, say).run(work, clean)


def foretold(params: Mapping[str, Any], workspace: Path) -> str | None:
    """The digest of the outputs that a stage with these parameters would take over as dvc.lock has them; None when it must run."""
    made = up_to_date(DvcStage.from_json(params["dvc"]), workspace) if params.get("dvc") else None
    if made is None:
        return None
    listed = "".join(f"{path}\n" for path in params["outs"])
    files = [FileDigest(f"{OUTS}.txt", text_sha256(listed), len(listed.encode()))] if listed else []
    for path in params["outs"]:
        for name, source in made[path].items():
            placed = f"{OUTS}/{path}/{name}" if name else f"{OUTS}/{path}"
            files.append(FileDigest(placed, file_sha256(source), source.stat().st_size))
    return bundle_digest(files)


def _take(made: Mapping[str, Mapping[str, Path]], workspace: Path) -> None:
    """Have in place what was made before; what is in place is left alone."""
    for path, files in made.items():
        place = workspace / path
        if all(source == (place / name if name else place) for name, source in files.items()):
            continue
        _remove(place)
        if "" not in files:
            place.mkdir(parents=True)
        for name, source in files.items():
            _put(source, place / name if name else place)
            (place / name if name else place).chmod(0o644)  # DVC's own copy is read-only


def put_in_place(kept: Path, workspace: Path, params: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Have in the workspace what a stage kept, alone with those paths: its command need not run.

    Of a stage with these parameters, whose result had these facts: dvc.lock is to say of it what it said then.
    """
    with _workplace(workspace, (), _kept_paths(kept)):
        check_out(kept, workspace)
        if params.get("dvc") and facts.get("dvc"):
            record(workspace, DvcStage.from_json(params["dvc"]), facts["dvc"])


def check_out(kept: Path, workspace: Path) -> None:
    """Have in the workspace what a stage kept; what is the same already is left alone."""
    root = kept / OUTS
    wanted = {path: root / path for path in _kept_paths(kept)}
    for path, source in wanted.items():
        place = workspace / path
        if source.is_dir() and place.is_dir() and not place.is_symlink():
            for extra in sorted(set(_files(place)) - set(_files(source))):
                (place / extra).unlink()
            for name in _files(source):
                _put(source / name, place / name)
        elif source.is_dir():
            _remove(place)
            shutil.copytree(source, place)
        else:
            _put(source, place)


def _put(source: Path, place: Path) -> None:
    if _is_same(source, place):
        return
    _remove(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{place.name}.airboss")
    shutil.copyfile(source, aside)
    shutil.copymode(source, aside)
    os.replace(aside, place)


def _is_same(source: Path, place: Path) -> bool:
    is_there = place.is_file() and not place.is_symlink() and place.stat().st_size == source.stat().st_size
    return is_there and file_sha256(place) == file_sha256(source)


def _kept_paths(kept: Path) -> list[str]:
    listed = kept / f"{OUTS}.txt"
    return listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []


def _files(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() or path.is_symlink()]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _environment(ctx: StageContext) -> dict[str, str]:
    """The stage's own, its parameters by name, and where to say how far it is."""
    own_params = {name.removeprefix("param:"): value for name, value in ctx.params.items() if name.startswith("param:")}
    values: Mapping[str, Any] = {**ctx.params["values"], **own_params}
    named = {f"PARAM_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}": str(value) for name, value in values.items()}
    told = {"AIRBOSS_RUN": ctx.run_id, "AIRBOSS_PROGRESS": str(ctx.out_dir / PROGRESS_NAME)}
    return {**told, **named, **ctx.params["env"]}


def _keep(workspace: Path, path: str, kept: Path) -> None:
    """Copy one output aside. Raises CommandFailed when it was not written, or is not plain files."""
    place, target = workspace / path, kept / path
    if not place.exists():
        raise CommandFailed(f"the command did not write {path}, which is among its outs", hint="see its log")
    if place.is_symlink() or any(one.is_symlink() for one in place.rglob("*") if place.is_dir()):
        raise CommandFailed(
            f"{path} is, or holds, a symbolic link: what it points at could change unseen", hint="write plain files"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.copytree(place, target)
    else:
        shutil.copyfile(place, target)
        shutil.copymode(place, target)
    with kept.with_name(f"{OUTS}.txt").open("a", encoding="utf-8") as listed:
        listed.write(path + "\n")


def _gate(text: str, metrics: Mapping[str, float]) -> Gate:
    name, op, limit, is_blocking = parse_gate(text)
    return Gate(name, metrics.get(name), limit, op, is_blocking)


@contextmanager
def _workplace(workspace: Path, inputs: Sequence[Path], outs: Sequence[str]) -> Iterator[None]:
    """Hold the paths that the command reads of other stages, as others do who read the same there, and those it writes alone.

    Where an input is not as its stage kept it, it is put in place by itself first, and then looked at again: somebody may have come
    between.
    """
    theirs = sorted({path for kept in inputs for path in _kept_paths(kept)} - set(outs))
    while True:
        with _locked(workspace, {**dict.fromkeys(theirs, fcntl.LOCK_SH), **dict.fromkeys(outs, fcntl.LOCK_EX)}):
            if all(_is_in_place(kept, workspace) for kept in inputs):
                yield
                return
        with _locked(workspace, dict.fromkeys(theirs, fcntl.LOCK_EX)):
            for kept in inputs:
                check_out(kept, workspace)


@contextmanager
def _locked(workspace: Path, wanted: Mapping[str, int]) -> Iterator[None]:
    """Hold locks on paths, taken in one order so that no two stages wait for each other, let go by this process's death at the latest."""
    (workspace / LOCKS).mkdir(parents=True, exist_ok=True)
    held = []
    try:
        for path, kind in sorted(wanted.items()):
            held.append(
                os.open(workspace / LOCKS / text_sha256(path)[:32], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            )
            fcntl.flock(held[-1], kind)
        yield
    finally:
        for fd in held:
            os.close(fd)


def _is_in_place(kept: Path, workspace: Path) -> bool:
    """Whether the workspace has, at its paths, exactly what a stage kept."""
    for path in _kept_paths(kept):
        source, place = kept / OUTS / path, workspace / path
        if not source.is_dir():
            if not _is_same(source, place):
                return False
        elif (
            not place.is_dir()
            or sorted(_files(source)) != sorted(_files(place))
            or not all(_is_same(source / name, place / name) for name in _files(source))
        ):
            return False
    return True
