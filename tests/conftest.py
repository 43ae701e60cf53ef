"""Fixtures that several test modules share."""

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


@pytest.fixture
def own_home(tmp_path, monkeypatch) -> Path:
    """A home of the test's own: no login, no Prefect database and no settings from outside."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "NORMAUDIT_STORE", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home" / "hf"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"
