"""Fixtures that several test modules share."""

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from deployments.demo.standin import StandIn
    from storage.store import Store
    from tasks.night import Crawl
    from tests.engines import Engine
    from tests.s3_server import S3Server

# A shell's background job ignores Ctrl-C, and what the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def running_hub(request: pytest.FixtureRequest) -> "Iterator[StandIn]":
    """A stand-in Hub that holds the test module's REPOS and knows the tests' token."""
    from deployments.demo.standin import StandIn
    from tests.hub_tools import TOKEN

    with StandIn(request.module.REPOS, token=TOKEN) as running:
        yield running


@pytest.fixture
def hub(running_hub: "StandIn") -> "StandIn":
    """The test module's Hub: without a fault, a limit or a request so far."""
    from tests.hub_tools import healthy

    return healthy(running_hub)


@pytest.fixture
def own_hub(own_home) -> "Iterator[StandIn]":
    """A stand-in Hub of the test's own, with six small models, which the test may change."""
    from deployments.demo.standin import StandIn
    from tests.nights import repos

    with StandIn(repos()) as running:
        yield running


@pytest.fixture
def crawl(own_hub: "StandIn") -> "Crawl":
    """A crawl of all models of the test's own Hub."""
    from tests.nights import crawl_with

    return crawl_with(own_hub, sources=({"top": 100},))


@pytest.fixture
def location(tmp_path: Path) -> str:
    """Where a store may be made."""
    return str(tmp_path / "store")


@pytest.fixture
def store(tmp_path: Path) -> "Store":
    """A store that nothing was written to yet."""
    from storage.store import open_store

    return open_store(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local GPT-2."""
    from tests.command import checkpoint

    return checkpoint(tmp_path / "model")


@pytest.fixture(scope="session")
def ranked_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three public models, a private one, a local folder and a failed audit, which no test changes."""
    from tests.stores import write_ranked

    location = tmp_path_factory.mktemp("ranked") / "store"
    write_ranked(location)
    return location


@pytest.fixture(scope="session")
def s3() -> "Iterator[S3Server]":
    """A server of the S3 protocol on loopback, with a bucket `tests`."""
    from tests.s3_server import S3Server

    with S3Server() as server:
        server.create_bucket("tests")
        yield server


@pytest.fixture
def bucket(s3: "S3Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a store may be made in a bucket; the environment is that of a user of the server."""
    for name, value in {**s3.environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return f"s3://tests/{uuid4().hex}"


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


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Engine]":
    """One Prefect server for all tests that need one: to start it and to create its database takes ten seconds."""
    from tests.engines import running_engine

    with running_engine(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture
def prefect_server(own_home: Path, engine: "Engine", monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a Prefect server, which the environment names."""
    monkeypatch.setenv("PREFECT_HOME", str(own_home))
    monkeypatch.setenv("PREFECT_API_URL", engine.url)
    return engine.url


@pytest.fixture
def prefect_home(own_home: Path, engine: "Engine", monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own where a Prefect server can be started; its database has been created."""
    home = engine.copy_database(own_home / "prefect")
    monkeypatch.setenv("PREFECT_HOME", str(home))
    return home


@pytest.fixture
def own_home(tmp_path, monkeypatch) -> Path:
    """A home of the test's own: no login, no Prefect database and no settings from outside."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "NORMAUDIT_STORE", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home" / "hf"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def night(tmp_path, prefect_server) -> "Iterator[Callable[..., subprocess.Popen[str]]]":
    """A function that starts a night against a Hub, in a process of its own, which ends with the test."""
    from tests.nights import SETTINGS, start_night

    settings = tmp_path / "nightly.toml"
    settings.write_text(SETTINGS)
    started: list[subprocess.Popen[str]] = []

    def start(hub: "StandIn", store: object, config: Path = settings) -> "subprocess.Popen[str]":
        started.append(start_night(hub, store, config))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
