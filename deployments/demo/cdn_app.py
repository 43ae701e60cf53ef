"""The stand-in's second origin: serves large files to whoever brings a signed URL, and wants no token."""

from __future__ import annotations

import hashlib

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from deployments.demo.replies import Reply, xml_refusal
from deployments.demo.world import World, asked_repo_id


def cdn_app(world: World) -> Starlette:
    """Return the CDN as an ASGI application."""

    async def serve(request: Request) -> Reply:
        return served(world, request)

    return Starlette(routes=[Route("/{owner}/{name}/{sha}/{path:path}", serve, methods=["GET"])])


def served(world: World, request: Request) -> Reply:
    """Return the bytes asked for; refuse a request that carries a token (400) or a URL that does not hold (403)."""
    if "authorization" in request.headers:
        return xml_refusal(400, "InvalidArgument", "Only one auth mechanism allowed: the URL is signed, send no token")
    stored, path = world.repos.get(asked_repo_id(request)), request.path_params["path"]
    repo = stored.at(request.path_params["sha"]) if stored else None
    if repo is None or path not in repo.files:
        return xml_refusal(404, "NoSuchKey", "The specified key does not exist.")
    if not world.url_holds(request):
        return xml_refusal(403, "AccessDenied", "The URL's signature does not match, or it has expired")
    # an object store names the object as it likes, so this is not the sha256 that the hub tells
    etag = hashlib.md5(repo.sha256_of(path).encode(), usedforsecurity=False).hexdigest()
    return world.file_reply(request, repo, path, etag)
