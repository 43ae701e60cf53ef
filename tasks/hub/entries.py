"""The Hub's JSON about one repo, parsed into a `Listing`: untrusted, so each fact is taken alone or left."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

from tasks.core.records import Listing, RepoFile

FACTS = (  # the properties to ask for; one page of them serves a night's crawl without a request per model
    "author",
    "config",
    "createdAt",
    "disabled",
    "downloads",
    "gated",
    "lastModified",
    "library_name",
    "likes",
    "pipeline_tag",
    "private",
    "safetensors",
    "sha",
    "siblings",
    "tags",
)
MAX_TEXT_CHARS = 1_024  # tags and paths are far shorter; whatever is longer is no fact worth a row
MAX_COUNT = 2**63 - 1  # what a column of the store can hold
_REPO_ID = re.compile(r"[A-Za-z0-9_][\w.\-]{0,95}(/[A-Za-z0-9_][\w.\-]{0,95})?", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def is_repo_id(text: object) -> bool:
    """Return whether this can be a repo's id: one or two plain names."""
    return isinstance(text, str) and _REPO_ID.fullmatch(text) is not None and ".." not in text


def listing_of(entry: object) -> Listing | None:
    """Return what is usable of one entry of the Hub's JSON, or None if it does not even name a repo."""
    if not isinstance(entry, dict) or not is_repo_id(entry.get("id")):
        return None
    repo_id = str(entry["id"])
    return Listing(
        repo_id=repo_id,
        sha=_sha(entry.get("sha")),
        files=_files(entry.get("siblings")),
        config=_config(entry.get("config")),
        author=_text(entry.get("author")) or (repo_id.partition("/")[0] if "/" in repo_id else None),
        created_at=_moment(entry.get("createdAt")),
        last_modified=_moment(entry.get("lastModified")),
        downloads=_count(entry.get("downloads")),
        likes=_count(entry.get("likes")),
        library_name=_text(entry.get("library_name")),
        pipeline_tag=_text(entry.get("pipeline_tag")),
        tags=_texts(entry.get("tags")),
        gated=_gated(entry.get("gated")),
        private=_flag(entry.get("private")),
        disabled=_flag(entry.get("disabled")),
        parameter_count=_parameters(entry.get("safetensors")),
    )


def _text(value: object) -> str | None:
    """Return a string that any encoding can hold; lone surrogates break files and databases alike."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARS:
        return None
    return value if value.isascii() or _is_unicode(value) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(values: object) -> tuple[str, ...]:
    return tuple(text for value in values if (text := _text(value))) if isinstance(values, list) else ()


def _sha(value: object) -> str | None:
    return value if isinstance(value, str) and _SHA.fullmatch(value) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else None


def _gated(value: object) -> str | None:
    if value is True:
        return "auto"
    return value if isinstance(value, str) and value in ("auto", "manual") else None


def _moment(value: object) -> str | None:
    """Return a moment as ISO 8601 in UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return None


def _files(siblings: object) -> tuple[RepoFile, ...]:
    return tuple(file for file in map(_file, siblings) if file) if isinstance(siblings, list) else ()


def _file(sibling: object) -> RepoFile | None:
    if not isinstance(sibling, dict) or not (path := _text(sibling.get("rfilename"))):
        return None
    if len(sibling) == 1:  # nearly always: a night has millions of files
        return RepoFile(path)
    lfs = sibling.get("lfs")
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else None
    return RepoFile(path, _count(sibling.get("size")), _sha(sha256))


def _config(value: object) -> Mapping[str, object] | None:
    """Return the config digest if it can be written as JSON again; it is copied from files that anyone may write."""
    if not isinstance(value, dict):
        return None
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return None
    return value


def _parameters(safetensors: object) -> int | None:
    return _count(safetensors.get("total")) if isinstance(safetensors, dict) else None
