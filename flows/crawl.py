"""From the settings of a night to what its tasks take: plain records, which know nothing of settings files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from flows.settings import AuditSettings, NightlySettings, SettingsError, Source
from tasks.core.reading import ReadOptions
from tasks.hub import HubOptions, ListingQuery, options_from_environment
from tasks.hub.options import CONNECTIONS_PER_HOST
from tasks.night import Crawl

_HUB_SORTS: dict[str, Literal["downloads", "likes", "createdAt", "lastModified", "trendingScore"]] = {
    "downloads": "downloads",
    "likes": "likes",
    "created_at": "createdAt",
    "last_modified": "lastModified",
    "trending_score": "trendingScore",
}
_REPO_LINE = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


def crawl_of(settings: NightlySettings) -> Crawl:
    """Return what the night's tasks need; the token comes from HF_TOKEN or a stored login.

    Where others audit, whoever lists is alone at that time, and may use the whole rate limit.

    Raises:
        SettingsError: a file of repos cannot be read, a line of it is no repo, or no request can carry the token.
    """
    crawl = batch_crawl_of(settings)
    return replace(
        crawl,
        queries=tuple(_query(source) for source in settings.sources if _is_query(source)),
        repos=tuple(_split(repo) for source in settings.sources for repo in _repos(source)),
        opt_out=settings.opt_out,
        share=crawl.share if settings.runner == "threads" else 1.0,
    )


def batch_crawl_of(settings: AuditSettings) -> Crawl:
    """Return what the audit of a planned batch needs: no sources, and this process's share of the rate limit.

    Raises:
        SettingsError: no request can carry the token.
    """
    limits = settings.limits
    return Crawl(
        hub=hub_options_of(settings),
        queries=(),
        repos=(),
        opt_out=(),
        read=read_options_of(settings),
        use_registry=True,
        models=limits.models,
        concurrency=limits.concurrency,
        batch_models=limits.batch_models,
        share=1 / limits.workers,
    )


def read_options_of(settings: AuditSettings) -> ReadOptions:
    """Return what to read of each model."""
    return ReadOptions(
        norms=settings.norms,
        max_model_bytes=settings.limits.model_bytes,
        dead_tau=settings.dead_tau,
        weights_evidence_bytes=settings.limits.weights_evidence_bytes,
    )


def hub_options_of(settings: AuditSettings) -> HubOptions:
    """Return how to talk to the Hub of these settings.

    Raises:
        SettingsError: HF_ENDPOINT or HF_TOKEN cannot be used.
    """
    limits = settings.limits
    try:
        token = options_from_environment().token
    except ValueError as error:
        raise SettingsError(f"HF_ENDPOINT, HF_TOKEN: {error}") from error
    return HubOptions(
        endpoint=settings.endpoint,
        token=token,
        contact=settings.contact,
        read_timeout_s=limits.timeout_s,
        retries=limits.retries,
        connections_per_host=max(limits.concurrency, CONNECTIONS_PER_HOST),
        shard_headers=limits.shard_headers,
    )


def _is_query(source: Source) -> bool:
    return not source.repos and source.file is None


def _query(source: Source) -> ListingQuery:
    return ListingQuery(source.top, _HUB_SORTS[source.sort], source.filters, source.author, source.search)


def _repos(source: Source) -> Iterator[str]:
    yield from source.repos
    if source.file is None:
        return
    try:
        lines = source.file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{source.file}: the list of repos cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if repo := line.partition("#")[0].strip():
            if not _REPO_LINE.fullmatch(repo):
                raise SettingsError(
                    f"{source.file}, line {number}: {repo!r:.80} is no repo; give org/name or org/name@revision"
                )
            yield repo


def _split(repo: str) -> tuple[str, str | None]:
    name, _, revision = repo.partition("@")
    return name, revision or None
