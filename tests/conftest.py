"""Fixtures that several test modules share."""

import asyncio
from datetime import date
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models() -> Path:
    """The demo's models, where the demo itself keeps them: to build them takes half a minute."""
    pytest.importorskip("transformers")
    from deployments.demo.models import build_models
    from flows.night_run import DEMO_CACHE

    folder = Path(__file__).resolve().parent.parent / DEMO_CACHE
    build_models(folder)
    return folder


@pytest.fixture(scope="session")
def demo_store(models, tmp_path_factory) -> Path:
    """A store after one night on the demo's Hub, by the stages themselves, without Prefect."""
    from deployments.demo.models import DEMO_TOKEN, demo_faults, demo_repos
    from deployments.demo.standin import StandIn, Switches
    from storage.database import build
    from storage.store import open_store
    from tasks import night as stages
    from tasks.core.reading import ReadOptions
    from tasks.hub import HubOptions, ListingQuery

    store = tmp_path_factory.mktemp("demo") / "store"
    with StandIn(demo_repos(models), token=DEMO_TOKEN, switches=Switches(faults=demo_faults())) as hub:
        crawl = stages.Crawl(
            hub=HubOptions(endpoint=hub.endpoint, token=DEMO_TOKEN, retries=0),
            queries=(ListingQuery(),),
            repos=(),
            opt_out=(),
            read=ReadOptions(),
            use_registry=True,
            models=1000,
            concurrency=8,
            batch_models=500,
        )
        night = stages.begin_night(str(store), date(2026, 1, 2))
        stages.plan_night(night, crawl)
        asyncio.run(stages.audit_batch(night, crawl, 0, stages.remaining_budget(night, 10**6, 10**12)))
    build(open_store(store))
    stages.end_night(night, stages.summarise(night))
    return store


@pytest.fixture
def own_home(tmp_path, monkeypatch) -> Path:
    """A home of the test's own: no login, no Prefect database and no settings from outside."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "NORMAUDIT_STORE", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home" / "hf"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"
