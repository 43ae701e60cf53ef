"""The stand-in Hub in a process of its own, so that a reader's CPU time and memory are measured without it.

A question may set the latency and stock repos; every answer tells what was asked of the Hub since the one before.
"""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from benchmarks.reader_process import Message, answer_lines
from deployments.demo.catalogue import Content, SparseContent, StandInRepo, sparse_7b, sparse_70b, sparse_llama
from deployments.demo.standin import RequestRecord, StandIn

OWN_HEADERS = "own headers"  # of shapes of which no two models have the same header to the byte
_TINY = {"layers": 2, "hidden_size": 128, "intermediate_size": 256, "vocabulary_size": 512}
SHAPES: dict[str, Callable[[str], StandInRepo]] = {
    "7B": sparse_7b,
    "7B, own headers": sparse_7b,
    "70B": sparse_70b,
    "tiny": partial(sparse_llama, **_TINY),
    "tiny-sharded": partial(sparse_llama, shards=3, **_TINY),
}
_numbers = itertools.count()


def main() -> None:
    with StandIn([]) as hub:
        answer_lines(lambda question: answer(hub, **question))


def answer(hub: StandIn, latency_s: float | None = None, stock: tuple[str, str, int] | None = None) -> Message:
    """Set what the question names and tell what the Hub did since the last answer.

    Args:
        hub: the stand-in.
        latency_s: to add to each of its answers from now on.
        stock: (shape, organisation, how many) repos to add, with names that no repo had before.
    """
    if latency_s is not None:
        hub.switches.latency_s = latency_s
    served = served_of(hub.requests)
    hub.clear()
    stocked = [fresh_repo(stock[0], stock[1]) for _ in range(stock[2])] if stock else []
    hub.repos.update((repo.repo_id, repo) for repo in stocked)
    return {
        "endpoint": hub.endpoint,
        "cpu_s": time.process_time(),
        "repos": [facts_of(repo) for repo in stocked],
        **served,
    }


def served_of(requests: Iterable[RequestRecord]) -> dict[str, int]:
    """Return the requests by what they count against, and the bytes of all bodies.

    The Hub counts resolve addresses, its cache of small files included, in another quota than the rest of its API.
    """
    requests = list(requests)
    kinds = Counter(
        "cdn" if record.origin == "cdn" else "resolvers" if "/resolve" in record.path else "api" for record in requests
    )
    refused = sorted({record.status for record in requests if record.status >= 400} - {404})  # some ask what exists
    if refused:
        raise RuntimeError(f"the stand-in refused a reader's requests with {refused}")
    return {kind: kinds[kind] for kind in ("api", "resolvers", "cdn")} | {
        "bytes": sum(record.bytes_sent for record in requests)
    }


def fresh_repo(shape: str, organisation: str) -> StandInRepo:
    """Return a repo of a name that no cache knows, sharing its files with all others of the shape."""
    template, number = _template(shape), next(_numbers)
    name = re.sub(r"\W+", "-", shape)
    repo = replace(template, repo_id=f"{organisation}/{name}-{number}", sha="")
    if shape.endswith(OWN_HEADERS):
        repo.files = {path: _with_own_header(content, number) for path, content in template.files.items()}
    vars(repo)["safetensors"] = template.safetensors  # cached there: the listing would parse each header anew
    return repo


def _with_own_header(content: Content, number: int) -> Content:
    """Return a sparse checkpoint whose header says another thing in as many bytes; anything else as it is."""
    if not isinstance(content, SparseContent):
        return content
    header = content.pieces[0].replace(b'"format":"pt"', b'"f%07d":""' % number)
    if len(header) != len(content.pieces[0]) or header == content.pieces[0]:
        raise RuntimeError("the header has no metadata to change")
    return replace(content, pieces={**content.pieces, 0: header})


def facts_of(repo: StandInRepo) -> dict[str, Any]:
    """Return what a night's listing tells of a repo, and its size."""
    return {
        "repo_id": repo.repo_id,
        "sha": repo.sha,
        "files": list(repo.files),
        "config": repo.config_digest(),
        "parameter_count": (repo.safetensors or {}).get("total"),
        "checkpoint_bytes": sum(file.size for path, file in repo.files.items() if path.endswith(".safetensors")),
    }


@cache
def _template(shape: str) -> StandInRepo:
    return SHAPES[shape](f"bench/{shape}")


if __name__ == "__main__":
    main()
