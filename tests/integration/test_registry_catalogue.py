"""An existing registry, looked at: 500 models and 20,000 versions through a real server, and what is said when it is down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.catalogue import CataloguePage, why_not_servable
from adapters.mlflow_registry import MlflowRegistry
from adapters.ports import ModelFile, Registration
from engine.registry_catalogue import FRESH_S, CatalogueCache
from state.digests import bundle_digest, hash_tree
from state.words import OperationFailed, Unreachable
from tests.mlflow_crowd import fill
from tests.mlflow_server import Proxy, mlflow_server

SECONDS = 10.0
"""That a person waits for a whole list on two busy cores; a free machine takes half a second."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    home = tmp_path_factory.mktemp("catalogue")
    found = MlflowRegistry(mlflow_dir=home)
    fill(home / "mlflow.db", models=30, versions=12)
    return found


def test_models_come_a_page_at_a_time_and_none_twice(registry: MlflowRegistry) -> None:
    names: list[str] = []
    page = ""
    while True:
        found = registry.catalogue.models("", 7, page)
        names += [model.name for model in found.models]
        page = found.next_page
        if not page:
            break
    assert len(names) == 30
    assert names == sorted(set(names))


def test_the_registry_itself_searches_by_a_part_of_a_name_and_by_a_tag(registry: MlflowRegistry) -> None:
    assert [m.name for m in registry.catalogue.models("FRAUD", 100, "").models] == [
        "fraud-0000",
        "fraud-0010",
        "fraud-0020",
    ]
    assert {m.tags["team"] for m in registry.catalogue.models("tags.team = 'team-3'", 100, "").models} == {"team-3"}
    assert not registry.catalogue.models("it's not there", 100, "").models
    found = registry.catalogue.versions("fraud-0010", "tags.gate = 'pass'", 100, "").versions
    assert [v.version for v in found] == ["11", "9", "7", "5", "3", "1"]


def test_a_model_shows_its_versions_newest_first_with_the_aliases_that_the_search_leaves_out(
    registry: MlflowRegistry,
) -> None:
    found = registry.catalogue.versions("fraud-0010", "", 3, "").versions
    assert [(v.version, list(v.aliases)) for v in found] == [
        ("12", ["challenger"]),
        ("11", ["champion"]),
        ("10", ["previous-champion"]),
    ]


def test_an_alias_that_is_not_there_is_answered_with_those_that_are(registry: MlflowRegistry) -> None:
    assert registry.catalogue.details("fraud-0010", "@champion").version.version == "11"
    with pytest.raises(OperationFailed, match="no alias 'Champion'") as refused:
        registry.catalogue.details("fraud-0010", "@Champion")
    assert "challenger, champion, previous-champion" in refused.value.hint


def test_a_version_whose_files_are_gone_says_so_and_is_not_for_release(registry: MlflowRegistry) -> None:
    found = registry.catalogue.details("fraud-0010", "11")
    assert found.version.tags["gate"] == "pass"
    assert found.refused


@pytest.mark.parametrize(
    ("files", "word"),
    [
        (("MLmodel", "model.pkl"), "pickle"),
        (("MLmodel", "data/model.pth", "model.safetensors"), "pickle"),
        (("MLmodel", "model.xgb"), "no weights"),
        ((), "no files"),
        (("MLmodel", "model/config.json", "model/model.safetensors"), ""),
    ],
)
def test_what_cannot_be_served_is_known_from_its_files_names(files: tuple[str, ...], word: str) -> None:
    said = why_not_servable(files, ("sklearn",))
    assert word in said if word else said == ""


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_page_is_kept_a_while_and_shown_with_its_age_while_the_registry_is_down() -> None:
    answers: list[Any] = []

    class Client:
        def models(self, text: str, limit: int, page: str) -> CataloguePage:
            answers.append(text)
            if isinstance(state["down"], Exception):
                raise state["down"]
            return CataloguePage(next_page=f"{len(answers)}")

        def close(self) -> None:
            return

    async def client() -> Client:
        return Client()

    async def through(work: Callable[[], Any]) -> Any:
        return work()

    state: dict[str, Any] = {"down": None}
    clock = _Clock()
    cache = CatalogueCache(client, through, clock)
    first = await cache.models("", 5, "")
    clock.now += FRESH_S - 1
    assert await cache.models("", 5, "") is first
    clock.now += 2
    assert (await cache.models("", 5, "")).value.next_page == "2"
    state["down"] = Unreachable("the registry cannot be reached")
    clock.now += FRESH_S
    old = await cache.models("", 5, "")
    assert (old.value.next_page, old.trouble, clock.now - old.at) == ("2", "the registry cannot be reached", FRESH_S)
    with pytest.raises(Unreachable):
        await cache.models("never seen", 5, "")


@pytest.mark.deep
@pytest.mark.timeout(400)
def test_500_models_and_20000_versions_are_seen_in_seconds_through_a_server(tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as url:
        fill(tmp_path / "m.db", models=500, versions=40)
        proxy = Proxy(url)
        try:
            catalogue = MlflowRegistry(url=proxy.url).catalogue
            took: dict[str, float] = {}

            def timed(what: str, ask: Callable[[], CataloguePage]) -> CataloguePage:
                before = len(proxy.asked)
                began = time.monotonic()
                page = ask()
                took[f"{what} ({len(proxy.asked) - before} requests)"] = round(time.monotonic() - began, 2)
                return page

            assert len(timed("500 models", lambda: catalogue.models("", 500, "")).models) == 500
            assert len(timed("search", lambda: catalogue.models("fraud", 500, "")).models) == 50
            assert len(timed("versions of one", lambda: catalogue.versions("fraud-0010", "", 500, "")).versions) == 40
            passed = timed("versions by tag", lambda: catalogue.versions("", "tags.gate = 'pass'", 500, ""))
            assert len(passed.versions) == 500
            assert passed.next_page
            sys_out = ", ".join(f"{what} {seconds} s" for what, seconds in took.items())
            print(sys_out)
            assert max(took.values()) < SECONDS, sys_out
            assert all(
                line.startswith(("GET ", "POST /api/2.0/mlflow/registered-models/alias", "HEAD "))
                for line in proxy.asked
            ), proxy.asked
        finally:
            proxy.close()


def test_a_prompt_is_kept_once_for_its_bytes_linked_from_each_model_and_no_store_but_ours_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow would make a store of its own
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text("{}")
    files = hash_tree(bundle)
    registry = MlflowRegistry(mlflow_dir=tmp_path / "registry")
    asked = Registration(
        model_name="chat", build_key="k1", bundle_path=bundle, files=tuple(ModelFile(f.path, f.sha256, f.size) for f in files),
        digest=bundle_digest(files), params={}, metrics={}, dataset_name="d", dataset_sha256="ab" * 32, dataset_path=tmp_path,
        tags={}, prompt_name="regression", prompt_text='{"odd": "~~ € {x} {{ y }}"}', prompt_sha256="1" * 64,
    )  # fmt: skip
    first = registry.register(asked)
    second = registry.register(replace(asked, build_key="k2"))
    other = registry.register(replace(asked, build_key="k3", prompt_text="{}", prompt_sha256="2" * 64))
    uris = [version.tags["airboss.prompt_uri"] for version in (first, second, other)]
    assert uris == ["prompts:/regression/1", "prompts:/regression/1", "prompts:/regression/2"]
    client = registry._client
    assert client.load_prompt(uris[0]).template == asked.prompt_text
    for version, number in ((first, 1), (other, 2), (first, 1)):  # promoted, promoted, and back
        registry.set_alias(version.model_name, "champion", version.version)
        assert client.get_prompt_version_by_alias("regression", f"{version.model_name}-champion").version == number
    registry.drop_alias(first.model_name, "champion")
    with pytest.raises(Exception, match=r"(?i)alias"):
        client.get_prompt_version_by_alias("regression", f"{first.model_name}-champion")
    models = client.search_logged_models([client.get_experiment_by_name("chat").experiment_id])
    linked = {model.tags["airboss.build_key"]: json.loads(model.tags["mlflow.linkedPrompts"]) for model in models}
    assert [linked[key][0]["version"] for key in ("k1", "k2", "k3")] == ["1", "1", "2"]
    assert [model.name for model in registry.catalogue.models("", 10, "").models] == ["chat"], "a prompt is no model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "registry"]
