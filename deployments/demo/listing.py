"""The listing of models: which repos a query chooses, in what order, and what it tells of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import get_args

from huggingface_hub.hf_api import ExpandModelProperty_T
from starlette.datastructures import QueryParams

from deployments.demo.repo import StandInRepo

FACTS: dict[str, Callable[[StandInRepo], object]] = {
    "author": lambda repo: repo.author,
    "sha": lambda repo: repo.sha,
    "createdAt": lambda repo: repo.created_at,
    "lastModified": lambda repo: repo.last_modified,
    "private": lambda repo: repo.private,
    "gated": lambda repo: repo.gated,
    "disabled": lambda repo: repo.disabled,
    "downloads": lambda repo: repo.downloads,
    "likes": lambda repo: repo.likes,
    "trendingScore": lambda repo: repo.likes,
    "library_name": lambda repo: repo.library_name,
    "pipeline_tag": lambda repo: repo.pipeline_tag,
    "tags": lambda repo: repo.all_tags,
    "siblings": lambda repo: [{"rfilename": path} for path in repo.files],
    "config": lambda repo: repo.config_digest(),
    "safetensors": lambda repo: repo.safetensors,
    "usedStorage": lambda repo: sum(content.size for content in repo.files.values()),
}
PROPERTIES = frozenset(get_args(ExpandModelProperty_T))  # what can be expanded; the Hub refuses other names
BRIEF = ("private", "downloads", "likes", "trendingScore", "tags", "pipeline_tag", "library_name", "createdAt")
FULL = (*BRIEF, "author", "sha", "lastModified", "siblings", "gated", "disabled")
SORT_KEYS: dict[str, Callable[[StandInRepo], float]] = {
    "downloads": lambda repo: repo.downloads,
    "likes": lambda repo: repo.likes,
    "trendingScore": lambda repo: repo.likes,
    "createdAt": lambda repo: datetime.fromisoformat(repo.created_at).timestamp(),
    "lastModified": lambda repo: datetime.fromisoformat(repo.last_modified).timestamp(),
}


def described(repo: StandInRepo, fields: Iterable[str]) -> dict[str, object]:
    """Return the facts that were asked for; those that the repo lacks are left out."""
    facts = {name: FACTS[name](repo) for name in fields if name in FACTS}
    return {"_id": repo.sha[:24], "id": repo.repo_id} | {k: v for k, v in facts.items() if v is not None}


def asked_fields(query: QueryParams, default: Iterable[str]) -> list[str]:
    """Return the names of the facts that a query asks for: those it expands and no others, or the usual ones."""
    if expanded := query.getlist("expand"):
        return expanded
    if query.get("full", "").lower() == "true":
        default = FULL
    return [*default, "config"] if query.get("config", "").lower() == "true" else [*default]


def chosen(repos: Iterable[StandInRepo], query: QueryParams) -> list[StandInRepo]:
    """Return the repos that a query's filters let through, in the order it asks for, ties by name."""
    key = SORT_KEYS[query.get("sort", "trendingScore")]
    passed = sorted((repo for repo in repos if _passes(repo, query)), key=lambda repo: repo.repo_id)
    return sorted(passed, key=key, reverse=query.get("direction", "-1") == "-1")


def _passes(repo: StandInRepo, query: QueryParams) -> bool:
    wanted = {tag for tags in query.getlist("filter") for tag in tags.split(",")}
    return (
        wanted <= set(repo.all_tags)
        and query.get("author", repo.author) == repo.author
        and query.get("search", "").lower() in repo.repo_id.lower()
        and query.get("pipeline_tag", repo.pipeline_tag) == repo.pipeline_tag
        and query.get("gated", str(bool(repo.gated))).lower() == str(bool(repo.gated)).lower()
    )
