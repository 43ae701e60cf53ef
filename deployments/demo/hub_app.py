"""The stand-in's first origin: the Hub's API and its resolve URLs."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable
from pathlib import PurePosixPath
from urllib.parse import parse_qs, quote, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from deployments.demo.checkpoint import read_header
from deployments.demo.content import BytesContent
from deployments.demo.faults import Asked, Stage, with_faults
from deployments.demo.limits import Bucket
from deployments.demo.listing import FACTS, SORT_KEYS, asked_fields, chosen, described
from deployments.demo.replies import Refusal, Reply, compressed, json_reply, refusal
from deployments.demo.repo import StandInRepo
from deployments.demo.world import World, asked_repo_id

Answer = Callable[[World, Request], Awaitable[Reply]]


def hub_app(world: World) -> Starlette:
    """Return the Hub as an ASGI application."""

    def route(path: str, answer: Answer, bucket: Bucket, *stages: Stage, method: str = "GET") -> Route:
        async def endpoint(request: Request) -> Reply:
            return await limited(world, request, answer, bucket, stages or ("repo",))

        return Route(path, endpoint, methods=[method])

    repo = "/api/models/{owner}/{name}"
    return Starlette(
        routes=[
            route("/api/models", list_models, "api", "listing"),
            route("/api/resolve-cache/models/{owner}/{name}/{revision}/{path:path}", resolve_cache, "resolvers"),
            route(f"{repo}/revision/{{revision:path}}", model_info, "api"),
            route(f"{repo}/tree/{{revision}}", tree, "api"),
            route(f"{repo}/tree/{{revision}}/{{path:path}}", tree, "api"),
            route(f"{repo}/paths-info/{{revision}}", paths_info, "api", method="POST"),
            route(f"{repo}/safetensors-metadata/{{path:path}}", safetensors_metadata, "api"),
            route(repo, model_info, "api"),
            route("/{owner}/{name}/resolve/{revision}/{path:path}", resolve, "resolvers", "repo", "resolve"),
        ]
    )


async def limited(world: World, request: Request, answer: Answer, bucket: Bucket, stages: Iterable[Stage]) -> Reply:
    """Return the answer within its bucket's limit, with the faults that strike it and the limit's headers."""
    allowance = world.windows.take(bucket, *world.switches.limits[bucket])
    try:
        reply = await answer(world, request) if allowance.passes else refusal(429, "We had to rate limit you.")
    except Refusal as refused:
        reply = refused.reply
    for stage in stages if allowance.passes else ():
        reply = with_faults(reply, world.switches.faults, stage, _asked(world, request))
    reply.headers = allowance.headers | reply.headers
    return reply


async def list_models(world: World, request: Request) -> Reply:
    """Return one page of the listing, and in `Link` where the next one is: the same query with a cursor."""
    query = request.query_params
    fields = asked_fields(query, default=("modelId",))
    for name in {query.get("sort", "likes")} - SORT_KEYS.keys():
        raise Refusal(refusal(400, f"cannot sort by {name}"))
    trusted = world.is_trusted(request)
    repos = chosen((repo for repo in list(world.repos.values()) if trusted or not repo.private), query)
    first = int(urlsafe_b64decode(query["cursor"])) if "cursor" in query else 0
    last = first + min(int(query.get("limit", world.switches.page_size)), world.switches.page_size)
    reply = json_reply(request, [described(repo, fields) for repo in repos[first:last]])
    if last < len(repos):
        reply.headers["Link"] = f'<{_next_page(world, request, last)}>; rel="next"'
    return reply


async def model_info(world: World, request: Request) -> Reply:
    """Return what is known of one repo: the fields it is asked to expand, or all, with sizes and hashes on request."""
    repo = world.seen_repo(request)
    _require_revision(repo, request.path_params.get("revision", "main"))
    facts = described(repo, asked_fields(request.query_params, default=FACTS))
    if request.query_params.get("blobs", "").lower() in ("1", "true"):
        facts["siblings"] = [_sibling(repo, path) for path in repo.files]
    return json_reply(request, facts | {"modelId": repo.repo_id})


async def tree(world: World, request: Request) -> Reply:
    """Return the files and folders below a folder, those of its subfolders only where that is asked for."""
    repo = world.seen_repo(request)
    _require_revision(repo, request.path_params["revision"])
    folder = request.path_params.get("path", "").strip("/")
    entries = {path: _entry(repo, path) for path in _below(repo, folder)}
    if not entries:
        raise Refusal(refusal(404, f"{folder} does not exist on {request.path_params['revision']}", "EntryNotFound"))
    if request.query_params.get("recursive", "").lower() not in ("1", "true"):
        entries = {path: entry for path, entry in entries.items() if _parent(path) == folder}
    return json_reply(request, list(entries.values()))


async def paths_info(world: World, request: Request) -> Reply:
    """Return the files and folders that the request's body names, as a form or as JSON; others are passed over."""
    repo = world.seen_repo(request)
    _require_revision(repo, request.path_params["revision"])
    body = await request.body()
    is_json = request.headers.get("content-type", "").startswith("application/json")
    paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
    known = set(_below(repo, ""))
    return json_reply(request, [_entry(repo, path.strip("/")) for path in paths if path.strip("/") in known])


async def safetensors_metadata(world: World, request: Request) -> Reply:
    """Return the headers of all shards that an index names, without the index's own map of tensors."""
    repo, path = world.open_repo(request), request.path_params["path"]
    if not world.switches.sharded_endpoint:
        raise Refusal(refusal(404, "Sorry, we can't find the page you are looking for."))
    _require_file(repo, path)
    content = repo.files[path]
    try:
        index = json.loads(content.read(0, content.size))
        shards = sorted(set(index["weight_map"].values()))
        headers = {shard: read_header(repo.files[shard]) for shard in shards}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal(refusal(400, f"could not read the shards of {path}")) from error
    if None in headers.values():
        raise Refusal(refusal(400, f"could not read the shards of {path}"))
    return json_reply(request, {"index": {"metadata": index.get("metadata", {})}, "headers": headers})


async def resolve(world: World, request: Request) -> Reply:
    """Return a file: the bytes themselves from a private repo, else a redirect to the CDN or to the resolve cache."""
    repo, path = world.open_repo(request), request.path_params["path"]
    _require_revision(repo, request.path_params["revision"])
    _require_file(repo, path)
    if repo.private:
        return _bytes(world, request, repo, path)
    headers = {"X-Repo-Commit": repo.sha, "Content-Type": "text/plain; charset=utf-8", "Vary": "Origin, Accept"}
    if not repo.is_large(path):
        return _redirect(307, _direct_url(repo, path), headers)
    headers |= {"X-Linked-Size": str(repo.files[path].size), "X-Linked-Etag": f'"{repo.sha256_of(path)}"'}
    return _redirect(302, world.signed_url(repo, path, request.headers.get("range")), headers)


async def resolve_cache(world: World, request: Request) -> Reply:
    """Return the bytes of a small file; JSON compressed where the client takes it."""
    repo, path = world.open_repo(request), request.path_params["path"]
    _require_revision(repo, request.path_params["revision"])
    _require_file(repo, path)
    reply = _bytes(world, request, repo, path)
    if path.endswith(".json") and reply.status == 200:
        reply.headers, content = compressed(request, reply.headers, reply.content)
        reply.content, reply.stop = content, content.size
    return reply


def _bytes(world: World, request: Request, repo: StandInRepo, path: str) -> Reply:
    etag = repo.sha256_of(path) if repo.is_large(path) else repo.oid_of(path)
    reply = world.file_reply(request, repo, path, etag)
    reply.headers["X-Repo-Commit"] = repo.sha
    return reply


def _redirect(status: int, location: str, headers: dict[str, str]) -> Reply:
    text = f"{'Found' if status == 302 else 'Temporary Redirect'}. Redirecting to {location}"
    return Reply(status, headers | {"Location": location}, BytesContent(text.encode()))


def _direct_url(repo: StandInRepo, path: str) -> str:
    return f"/api/resolve-cache/models/{repo.repo_id}/{repo.sha}/{quote(path)}"


def _asked(world: World, request: Request) -> Asked:
    repo_id, path = asked_repo_id(request), request.path_params.get("path")
    repo = world.repos.get(repo_id)
    if repo is None or path not in repo.files:
        return Asked(request.url.path, repo_id, path)
    direct = _direct_url(repo, path) if "/resolve/" in request.url.path else ""
    return Asked(request.url.path, repo.repo_id, path, repo.is_large(path), direct)


def _next_page(world: World, request: Request, first: int) -> str:
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    cursor = urlsafe_b64encode(str(first).encode()).decode()
    return f"{world.endpoint}/api/models?{urlencode([*kept, ('cursor', cursor)])}"


def _require_revision(repo: StandInRepo, revision: str) -> None:
    if revision not in ("main", repo.sha):
        raise Refusal(refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound"))


def _require_file(repo: StandInRepo, path: str) -> None:
    if path not in repo.files:
        raise Refusal(refusal(404, "Entry not found", "EntryNotFound"))


def _sibling(repo: StandInRepo, path: str) -> dict[str, object]:
    sibling: dict[str, object] = {
        "rfilename": path,
        "blobId": repo.oid_of(path),
        "size": repo.files[path].size,
    }
    if repo.is_large(path):
        sibling["lfs"] = {"sha256": repo.sha256_of(path), "size": repo.files[path].size, "pointerSize": 134}
    return sibling


def _entry(repo: StandInRepo, path: str) -> dict[str, object]:
    if path not in repo.files:
        return {"type": "directory", "oid": repo.sha, "size": 0, "path": path}
    size = repo.files[path].size
    entry: dict[str, object] = {"type": "file", "oid": repo.oid_of(path), "size": size, "path": path}
    if repo.is_large(path):
        entry["lfs"] = {"oid": repo.sha256_of(path), "size": size, "pointerSize": 134}
    return entry


def _below(repo: StandInRepo, folder: str) -> list[str]:
    folders = {parent.as_posix() for path in repo.files for parent in PurePosixPath(path).parents} - {"."}
    prefix = f"{folder}/" if folder else ""
    return sorted(path for path in folders | repo.files.keys() if path.startswith(prefix))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
