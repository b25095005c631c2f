"""A version of an existing registry, and a release of another workspace, become releases here: bytes copied, digests compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlmodel import select

from adapters.mlflow_registry import MlflowRegistry
from console.commands import release_export
from engine.access import Actor
from engine.api.schemas import VerbRequest, VerbResult
from engine.api.views.records import lineage, release_view
from engine.operations.desk import Desk
from engine.operations.door import do
from engine.registry_catalogue import CatalogueCache
from engine.serving.bundle import read_bundle
from engine.serving.models.gpt import GPTConfig
from state import audit
from state.config import parse_config
from state.digests import hash_tree
from state.models import Artifact, Release
from state.paths import Paths
from state.store import Store
from state.words import AirbossError, Conflict, OperationFailed, UsageError
from tests.bundles import CHARS, gpt_bundle
from tests.serving_models import llama, save_huggingface

TOML = """
[service.chat]
[environment.dev]
protected = false
policy = "quick"
[policy.quick]
steps = [{ weight = 100 }]
approvals = 0
"""


class _Registry:
    """The registry in this process in the place of its worker."""

    def __init__(self, registry: MlflowRegistry) -> None:
        self._catalogue = registry.catalogue

    def __getattr__(self, name: str) -> Any:
        return getattr(self._catalogue, name)

    def close(self) -> None:
        return


class Workplace:
    """A workspace's desk: only what imports touch is real."""

    def __init__(self, root: Path, registry: MlflowRegistry | None = None) -> None:
        root.mkdir(exist_ok=True)
        self.root = root.resolve()
        self.paths = Paths.of(self.root)
        (self.root / "airboss.toml").write_text(TOML)
        self.paths.state.mkdir()
        self.store = Store.open(self.paths.store)

        async def client() -> Any:
            return _Registry(cast(MlflowRegistry, registry))

        async def through(work: Callable[[], Any]) -> Any:
            return work()

        nothing = cast(Any, None)
        self.desk = Desk(
            self.store, parse_config(TOML, self.root / "airboss.toml"), nothing, nothing, nothing, self.root,
            lambda ref, said: None, lambda drains: None, nothing, str, CatalogueCache(client, through),
        )  # fmt: skip

    async def ask(self, verb: str, ref: str, *, dry_run: bool = False, **args: Any) -> VerbResult:
        request = VerbRequest(verb=verb, ref=ref, args=args, yes=True, reason="moved", dry_run=dry_run)
        return await do(self.desk, request, Actor.of_uid(0))

    def release(self, name: str) -> Release:
        return self.store.read_now(lambda s: s.get_one(Release, name))

    def export(self, name: str, to: Path) -> None:
        """As `airboss release export` does, reading this store."""

        def get(path: str, params: Any = None, timeout_s: float | None = None) -> Any:
            if path.startswith("/v1/lineage"):
                return self.store.read_now(
                    lambda s: lineage(s, f"release/{name}", forward=False).model_dump(mode="json")
                )
            return self.store.read_now(lambda s: release_view(s, s.get_one(Release, name)).model_dump(mode="json"))

        context = SimpleNamespace(
            get=get, paths=self.paths, root=self.root, engine_url="", config=SimpleNamespace(workspace={"name": self.root.name})
        )  # fmt: skip
        release_export.export(cast(Any, context), release_id=name, to=to)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    """support-bot: 1 as MLflow's transformers flavour lays it out, 2 a pickle, 3 half gone."""
    home = tmp_path_factory.mktemp("foreign")
    found = MlflowRegistry(mlflow_dir=home)
    client = found._client
    flat, laid = home / "flat", home / "laid"
    save_huggingface(flat, llama())
    (laid / "components" / "tokenizer").mkdir(parents=True)
    (laid / "model").mkdir()
    for file in flat.iterdir():
        is_token = "token" in file.name or file.name.endswith(".jinja")
        file.rename((laid / "components/tokenizer" if is_token else laid / "model") / file.name)
    (laid / "MLmodel").write_text("flavors:\n  python_function: {}\n  transformers: {}\n")
    pickle = home / "pickle"
    pickle.mkdir()
    (pickle / "model.pkl").write_bytes(b"\x80\x04.")
    (pickle / "MLmodel").write_text("flavors:\n  python_function: {}\n  sklearn: {}\n")
    client.create_registered_model("support-bot")
    for source in (laid, pickle, home / "gone"):
        run = client.create_run(client.create_experiment(source.name)).info.run_id
        client.log_metric(run, "accuracy", 0.83)
        client.log_param(run, "lr", "0.1")
        client.create_model_version("support-bot", source.as_uri(), run, tags={"team": "help"})
    client.set_registered_model_alias("support-bot", "champion", "1")
    return found


@pytest.fixture
def here(tmp_path: Path, registry: MlflowRegistry) -> Iterator[Workplace]:
    place = Workplace(tmp_path / "here", registry)
    yield place
    place.store.close()


async def test_a_foreign_version_becomes_a_release_that_can_be_served_and_its_registry_is_as_before(
    here: Workplace, registry: MlflowRegistry
) -> None:
    before = registry.aliases("support-bot"), registry.version("support-bot", "1").tags
    plan = await here.ask("registry.import", "service/chat", dry_run=True, model="support-bot", version="@champion")
    assert plan.plan is not None
    assert not here.paths.releases.exists()
    done = await here.ask("registry.import", "service/chat", model="support-bot", version="@champion")
    assert (done.ref, done.changed) == ("release/support-bot-v1", True)
    row = here.release("support-bot-v1")
    bundle = read_bundle(here.paths.releases / "support-bot-v1", row.digest)
    assert bundle.config["architectures"] == ["LlamaForCausalLM"]
    assert (row.service, row.model_name, row.model_version, row.context_length) == ("chat", "support-bot", "", 64)
    assert row.metrics == {"accuracy": 0.83}
    assert row.training["params"] == {"lr": "0.1"}
    assert row.training["flavours"] == ["transformers", "python_function"]
    kept = here.store.read_now(lambda s: {a.path: a.sha256 for a in s.exec(select(Artifact))})
    assert kept == {f.path: f.sha256 for f in hash_tree(here.paths.releases / "support-bot-v1")}
    tree = here.store.read_now(lambda s: lineage(s, "support-bot-v1", forward=False))
    assert [(c.ref, c.edge) for c in tree.children] == [("model:support-bot/1", "is_version")]
    assert (registry.aliases("support-bot"), registry.version("support-bot", "1").tags) == before
    again = await here.ask("registry.import", "service/chat", model="support-bot", version="1")
    assert not again.changed
    assert here.store.read_now(lambda s: audit.verify(s, here.paths.store.with_name("audit.head"))).is_whole
    assert not list(here.paths.models.glob(".fetched-*"))


@pytest.mark.parametrize(
    ("version", "error", "says"),
    [
        ("2", OperationFailed, r"sklearn.*model\.pkl: a pickle runs code"),
        ("3", OperationFailed, "no files"),
        ("9", OperationFailed, "not found"),
        ("@Champion", OperationFailed, "no alias"),
    ],
)
async def test_what_cannot_be_a_release_is_refused_with_the_reason_and_leaves_nothing(
    here: Workplace, version: str, error: type[AirbossError], says: str
) -> None:
    with pytest.raises(error, match=says):
        await here.ask("registry.import", "service/chat", model="support-bot", version=version)
    assert not here.paths.releases.exists()
    assert here.store.read_now(lambda s: s.exec(select(Release)).all()) == []


async def test_a_service_that_is_not_there_is_named(here: Workplace) -> None:
    with pytest.raises(UsageError, match="no service 'nope'"):
        await here.ask("registry.import", "service/nope", model="support-bot", version="1")


@pytest.fixture
async def carried(here: Workplace, tmp_path: Path) -> Path:
    """support-bot-v1 as `here` exported it."""
    await here.ask("registry.import", "service/chat", model="support-bot", version="1")
    here.export("support-bot-v1", tmp_path / "carried")
    return tmp_path / "carried"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path / "there")
    yield place
    place.store.close()


async def test_a_release_crosses_to_another_workspace_by_its_bytes_with_where_it_came_from(
    here: Workplace, there: Workplace, carried: Path
) -> None:
    done = await there.ask("release.import", "engine/engine", path=str(carried))
    assert (done.ref, done.changed) == ("release/support-bot-v1", True)
    was, now = here.release("support-bot-v1"), there.release("support-bot-v1")
    assert (now.digest, now.metrics, now.context_length) == (was.digest, was.metrics, was.context_length)
    assert now.training["there"]["imported_from"] == "model:support-bot/1"
    assert "model:support-bot/1" in json.dumps(now.training["lineage"])
    tree = there.store.read_now(lambda s: lineage(s, "support-bot-v1", forward=False))
    assert [(c.ref, c.edge) for c in tree.children] == [("origin:here/support-bot-v1", "copied_from")]
    read_bundle(there.paths.releases / "support-bot-v1", was.digest)
    assert not (await there.ask("release.import", "engine/engine", path=str(carried))).changed
    other = await there.ask("release.import", "engine/engine", path=str(carried), name="eu-1")
    assert (other.ref, other.changed) == ("release/eu-1", True)


@pytest.mark.parametrize("altered", ["bundle/config.json", "bundle/model.safetensors", "airboss-export.json"])
async def test_a_byte_that_changed_on_the_way_is_found_and_nothing_is_taken_over(
    there: Workplace, carried: Path, altered: str
) -> None:
    content = bytearray((carried / altered).read_bytes())
    content[-3] ^= 1
    (carried / altered).write_bytes(content)
    with pytest.raises(AirbossError):
        await there.ask("release.import", "engine/engine", path=str(carried))
    assert not there.paths.releases.exists()
    assert there.store.read_now(lambda s: s.exec(select(Release)).all()) == []


async def test_a_link_in_a_bundle_is_not_followed(there: Workplace, carried: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (carried / "bundle/config.json").rename(secret)
    (carried / "bundle/config.json").symlink_to(secret)
    with pytest.raises(OperationFailed, match="symbolic link"):
        await there.ask("release.import", "engine/engine", path=str(carried))


async def test_a_name_that_has_other_bytes_is_kept_from_them(there: Workplace, carried: Path) -> None:
    gpt_bundle(there.paths.releases / "support-bot-v1", GPTConfig(1, 2, 8, 16, len(CHARS)))
    with pytest.raises(Conflict, match="other bytes"):
        await there.ask("release.import", "engine/engine", path=str(carried))


async def test_a_path_without_an_export_is_said(there: Workplace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        await there.ask("release.import", "engine/engine", path=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="no absolute path"):
        await there.ask("release.import", "engine/engine", path="carried")
