"""What the Hub's API answers: the listing, what is known of a repo, its tree, and the headers of all its shards."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request

from deployments.demo.checkpoint import read_header
from deployments.demo.listing import FACTS, PROPERTIES, SORT_KEYS, asked_fields, chosen, described
from deployments.demo.replies import Refusal, Reply, json_reply, refusal
from deployments.demo.repo import StandInRepo
from deployments.demo.world import World

T = TypeVar("T")

XET_TOKEN_S = 900  # how long a token for chunks is said to hold


async def list_models(world: World, request: Request) -> Reply:
    """Return one page of the listing."""
    query = request.query_params
    for name in {query.get("sort", "likes")} - SORT_KEYS.keys():
        raise Refusal(refusal(400, f"cannot sort by {name}"))
    fields = asked_fields(query, default=("modelId",))
    _require_properties(query)
    trusted = world.is_trusted(request)
    repos = chosen((repo for repo in list(world.repos.values()) if trusted or not repo.private), query)
    page, link = _page(world, request, repos)
    return _linked(json_reply(request, [described(repo, fields) for repo in page]), link)


async def model_info(world: World, request: Request) -> Reply:
    """Return what is known of one repo: the fields it is asked to expand, or all, with sizes and hashes on request."""
    repo = at_revision(world.seen_repo(request), request.path_params.get("revision", "main"))
    _require_properties(request.query_params)
    facts = described(repo, asked_fields(request.query_params, default=FACTS))
    if _is_set(request.query_params, "blobs"):
        facts["siblings"] = [_sibling(repo, path) for path in repo.files]
    return json_reply(request, facts | {"modelId": repo.repo_id})


async def tree(world: World, request: Request) -> Reply:
    """Return the files and folders below a folder, those of its subfolders only where that is asked for."""
    repo = at_revision(world.seen_repo(request), request.path_params["revision"])
    folder, query = request.path_params.get("path", "").strip("/"), request.query_params
    paths = _below(repo, folder)
    if not paths:
        raise Refusal(refusal(404, f"{folder} does not exist on {request.path_params['revision']}", "EntryNotFound"))
    if not _is_set(query, "recursive"):
        paths = [path for path in paths if path.rpartition("/")[0] == folder]
    page, link = _page(world, request, paths)
    return _linked(json_reply(request, [_entry(world, repo, path, _is_set(query, "expand")) for path in page]), link)


async def paths_info(world: World, request: Request) -> Reply:
    """Return the files and folders that the request's body names, as a form or as JSON; others are passed over."""
    repo = at_revision(world.seen_repo(request), request.path_params["revision"])
    body = await request.body()
    is_json = request.headers.get("content-type", "").startswith("application/json")
    asked = json.loads(body) if is_json else parse_qs(body.decode())
    expanded = str(asked.get("expand", "")).strip("[']").lower() == "true"
    named = [path.strip("/") for path in asked.get("paths", [])]
    known = set(_below(repo, ""))
    return json_reply(request, [_entry(world, repo, path, expanded) for path in named if path in known])


async def safetensors_metadata(world: World, request: Request) -> Reply:
    """Return the headers of all shards that an index names, without the index's own map of tensors."""
    repo, path = world.open_repo(request), request.path_params["path"]
    if not world.switches.sharded_endpoint:
        raise Refusal(refusal(404, "Sorry, we can't find the page you are looking for."))
    require_file(repo, path)
    content = repo.files[path]
    try:
        index = json.loads(content.read(0, content.size))
        shards = sorted(set(index["weight_map"].values()))
        headers = {shard: read_header(repo.files[shard]) for shard in shards}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refusal(refusal(400, f"could not read the shards of {path}")) from error
    if None in headers.values():
        raise Refusal(refusal(400, f"could not read the shards of {path}"))
    return json_reply(request, {"index": {"metadata": index.get("metadata", {})}, "headers": headers})


async def xet_read_token(world: World, request: Request) -> Reply:
    """Return where chunks of large files would be had, and a token for there, in the body and in headers."""
    at_revision(world.open_repo(request), request.path_params["revision"])
    if not world.switches.xet:
        raise Refusal(refusal(404, "Sorry, we can't find the page you are looking for."))
    expires_at = int(time.time()) + XET_TOKEN_S
    reply = json_reply(request, {"accessToken": "xet_demo", "exp": expires_at, "casUrl": world.cdn_origin})
    reply.headers |= {
        "X-Xet-Cas-Url": world.cdn_origin,
        "X-Xet-Access-Token": "xet_demo",
        "X-Xet-Token-Expiration": str(expires_at),
    }
    return reply


def at_revision(repo: StandInRepo, revision: str) -> StandInRepo:
    """Return a repo as of a revision.

    Raises:
        Refusal: it has no such revision.
    """
    found = repo.at(revision)
    if found is None:
        raise Refusal(refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound"))
    return found


def require_file(repo: StandInRepo, path: str) -> None:
    """Raise Refusal where a repo has no such file."""
    if path not in repo.files:
        raise Refusal(refusal(404, "Entry not found", "EntryNotFound"))


def _require_properties(query: QueryParams) -> None:
    for name in set(query.getlist("expand")) - PROPERTIES:
        raise Refusal(refusal(400, f"cannot expand {name}"))


def _page(world: World, request: Request, items: Sequence[T]) -> tuple[Sequence[T], str | None]:
    """Return the items of the page that a request asks for, and the URL of the next: the same query with a cursor."""
    query = request.query_params
    first = int(urlsafe_b64decode(query["cursor"])) if "cursor" in query else 0
    last = first + min(int(query.get("limit", world.switches.page_size)), world.switches.page_size)
    if last >= len(items):
        return items[first:], None
    kept = [(name, value) for name, value in query.multi_items() if name != "cursor"]
    cursor = urlsafe_b64encode(str(last).encode()).decode()
    return items[first:last], f"{world.endpoint}{request.url.path}?{urlencode([*kept, ('cursor', cursor)])}"


def _linked(reply: Reply, next_url: str | None) -> Reply:
    if next_url:
        reply.headers["Link"] = f'<{next_url}>; rel="next"'
    return reply


def _is_set(query: QueryParams, name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true")


def _sibling(repo: StandInRepo, path: str) -> dict[str, object]:
    sibling: dict[str, object] = {
        "rfilename": path,
        "blobId": repo.oid_of(path),
        "size": repo.files[path].size,
    }
    if repo.is_large(path):
        sibling["lfs"] = {"sha256": repo.sha256_of(path), "size": repo.files[path].size, "pointerSize": 134}
    return sibling


def _entry(world: World, repo: StandInRepo, path: str, expanded: bool) -> dict[str, object]:
    """Return what the tree tells of a file or folder; with its last commit and its scan for malware if expanded."""
    if path not in repo.files:
        entry: dict[str, object] = {"type": "directory", "oid": repo.sha, "size": 0, "path": path}
    else:
        size = repo.files[path].size
        entry = {"type": "file", "oid": repo.oid_of(path), "size": size, "path": path}
        if repo.is_large(path):
            entry["lfs"] = {"oid": repo.sha256_of(path), "size": size, "pointerSize": 134}
            entry |= {"xetHash": repo.xet_hash_of(path)} if world.switches.xet else {}
        if expanded:
            entry["securityFileStatus"] = {"status": "safe", "avScan": {"status": "safe"}, "pickleImportScan": None}
    if expanded:
        entry["lastCommit"] = {"id": repo.sha, "title": "Upload", "date": repo.last_modified}
    return entry


def _below(repo: StandInRepo, folder: str) -> list[str]:
    folders = {parent.as_posix() for path in repo.files for parent in PurePosixPath(path).parents} - {"."}
    prefix = f"{folder}/" if folder else ""
    return sorted(path for path in folders | repo.files.keys() if path.startswith(prefix))
