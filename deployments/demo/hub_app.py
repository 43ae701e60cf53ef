"""The stand-in's first origin: the Hub's routes, its limits, and its resolve URLs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from deployments.demo import api
from deployments.demo.content import BytesContent
from deployments.demo.faults import Asked, Stage, with_faults
from deployments.demo.limits import Bucket
from deployments.demo.replies import Refusal, Reply, compressed, refusal
from deployments.demo.repo import StandInRepo
from deployments.demo.world import World, asked_repo_id

Answer = Callable[[World, Request], Awaitable[Reply]]
EXPOSED = (  # what the Hub lets scripts in a browser see of its headers
    "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,Accept-Ranges,Content-Range,"
    "X-Linked-Size,X-Linked-ETag,X-Xet-Hash"
)


def hub_app(world: World) -> Starlette:
    """Return the Hub as an ASGI application."""

    def route(path: str, answer: Answer, bucket: Bucket, *stages: Stage, method: str = "GET") -> Route:
        async def endpoint(request: Request) -> Reply:
            return await limited(world, request, answer, bucket, stages or ("repo",))

        return Route(path, endpoint, methods=[method])

    repo = "/api/models/{owner}/{name}"
    return Starlette(
        routes=[
            route("/api/models", api.list_models, "api", "listing"),
            route("/api/resolve-cache/models/{owner}/{name}/{revision}/{path:path}", resolve_cache, "resolvers"),
            route(f"{repo}/revision/{{revision:path}}", api.model_info, "api"),
            route(f"{repo}/tree/{{revision}}", api.tree, "api"),
            route(f"{repo}/tree/{{revision}}/{{path:path}}", api.tree, "api"),
            route(f"{repo}/paths-info/{{revision}}", api.paths_info, "api", method="POST"),
            route(f"{repo}/safetensors-metadata/{{path:path}}", api.safetensors_metadata, "api", "repo", "metadata"),
            route(f"{repo}/xet-read-token/{{revision}}", api.xet_read_token, "api"),
            route(repo, api.model_info, "api"),
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


async def resolve(world: World, request: Request) -> Reply:
    """Return a file: the bytes themselves from a private repo, else a redirect to the CDN or to the resolve cache."""
    repo, path = _wanted(world, request)
    if repo.private:
        return _bytes(world, request, repo, path)
    headers = {
        "X-Repo-Commit": repo.sha,
        "Content-Type": "text/plain; charset=utf-8",
        "Vary": "Origin, Accept",
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache",
        "Access-Control-Expose-Headers": EXPOSED,
    }
    if not repo.is_large(path):
        # the Hub's own cache is asked with the path that was asked for, and with the file's ETag
        key = urlencode({request.scope["raw_path"].decode(): "", "etag": f'"{repo.oid_of(path)}"'})
        return _redirect(307, f"{_direct_url(repo, path)}?{key}", headers)
    headers |= {"X-Linked-Size": str(repo.files[path].size), "X-Linked-ETag": f'"{repo.sha256_of(path)}"'}
    if world.switches.xet:
        headers |= _xet_headers(world, repo, path)
    return _redirect(302, world.signed_url(repo, path, request.headers.get("range")), headers)


async def resolve_cache(world: World, request: Request) -> Reply:
    """Return the bytes of a small file; JSON compressed where the client takes it."""
    repo, path = _wanted(world, request)
    reply = _bytes(world, request, repo, path)
    if path.endswith(".json") and reply.status == 200:
        reply.headers, content = compressed(request, reply.headers, reply.content)
        reply.content, reply.stop = content, content.size
    return reply


def _wanted(world: World, request: Request) -> tuple[StandInRepo, str]:
    """Return the repo, as of the revision that a request names, and the file in it.

    Raises:
        Refusal: the caller may not read it, or there is no such revision or file.
    """
    repo = api.at_revision(world.open_repo(request), request.path_params["revision"])
    path = request.path_params["path"]
    api.require_file(repo, path)
    return repo, path


def _bytes(world: World, request: Request, repo: StandInRepo, path: str) -> Reply:
    etag = repo.sha256_of(path) if repo.is_large(path) else repo.oid_of(path)
    reply = world.file_reply(request, repo, path, etag)
    reply.headers["X-Repo-Commit"] = repo.sha
    return reply


def _redirect(status: int, location: str, headers: dict[str, str]) -> Reply:
    text = f"{'Found' if status == 302 else 'Temporary Redirect'}. Redirecting to {location}"
    return Reply(status, headers | {"Location": location}, BytesContent(text.encode()))


def _xet_headers(world: World, repo: StandInRepo, path: str) -> dict[str, str]:
    found = repo.xet_hash_of(path)
    token = f'<{world.endpoint}/api/models/{repo.repo_id}/xet-read-token/{repo.sha}>; rel="xet-auth"'
    chunks = f'<{world.cdn_origin}/v1/reconstructions/{found}>; rel="xet-reconstruction-info"'
    return {"X-Xet-Hash": found, "Link": f"{token}, {chunks}"}


def _direct_url(repo: StandInRepo, path: str) -> str:
    return f"/api/resolve-cache/models/{repo.repo_id}/{repo.sha}/{quote(path)}"


def _asked(world: World, request: Request) -> Asked:
    repo_id, path = asked_repo_id(request), request.path_params.get("path")
    repo = world.repos.get(repo_id)
    if repo is None or path not in repo.files:
        return Asked(request.url.path, repo_id, path)
    direct = _direct_url(repo, path) if "/resolve/" in request.url.path else ""
    return Asked(request.url.path, repo.repo_id, path, repo.is_large(path), direct)
