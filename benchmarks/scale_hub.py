"""A Hub of as many models as it is told, each made up when it is asked for; in a process of its own.

It speaks the part of the protocol that a night over sound public models uses: the listing, the redirect of a file, and
its ranges at a second origin. The stand-in of `deployments.demo` keeps each repo and parses each request in full, which
costs more than the night that is to be measured; this one answers in a tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reader_process import Message, answer_lines
from benchmarks.reader_standin import SHAPES
from deployments.demo.catalogue import Content

PAGE_MODELS = 1_000
CONTENTS = 4  # checkpoints that all models share, with scales of their own
WEIGHTS = "model.safetensors"
_LIMIT = b'RateLimit: "%s";r=999999;t=300\r\nRateLimit-Policy: "fixed window";"%s";q=1000000;w=300\r\n'  # out of reach
_RANGE = re.compile(rb"\r\n[Rr]ange: bytes=(\d+)-(\d+)")
_RESOLVE = re.compile(rb"/scale-\d+/model-(\d+)/resolve/([0-9a-f]{40})/" + WEIGHTS.encode())
_CURSOR = re.compile(rb"[?&]cursor=(\d+)")
_OTHERS = ("README.md", ".gitattributes", "config.json", "generation_config.json", "special_tokens_map.json",
           "tokenizer.json", "tokenizer_config.json", WEIGHTS)  # fmt: skip
_TAGS = ("transformers", "safetensors", "llama", "text-generation", "conversational", "en", "license:apache-2.0",
         "base_model:org/base", "base_model:finetune:org/base", "endpoints_compatible", "region:us")  # fmt: skip


@dataclass
class ScaleHub:
    """Two origins on loopback.

    Attributes:
        shape: of all checkpoints, a key of `SHAPES`.
        models: how many the listing has.
        changed: how many of them, from the first on, have a new commit.
        latency_s: before each answer.
        counts: requests by kind since the last question.
    """

    shape: str
    models: int = 0
    changed: int = 0
    latency_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    hub_port: int = 0
    cdn_port: int = 0

    def __post_init__(self) -> None:
        templates = [SHAPES[self.shape](f"scale/{seed}", seed=seed) for seed in range(CONTENTS)]
        self._contents: list[Content] = [template.files[WEIGHTS] for template in templates]
        self._entry = _entry_template(templates[0].config_digest())

    def answer(self, **changes: Any) -> Message:
        """Change what the question names, and tell what was asked of the Hub since the one before."""
        for name, value in changes.items():
            setattr(self, name, value)
        counts, self.counts = self.counts, Counter()
        return {"endpoint": f"http://127.0.0.1:{self.hub_port}", "cpu_s": time.process_time(), "requests": counts}

    async def serve(self, ready: threading.Event) -> None:
        """Serve both origins until the process ends."""
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(lambda reply=reply: _Connection(self, reply), "127.0.0.1", 0)
                   for reply in (self.hub_reply, self.cdn_reply)]  # fmt: skip
        self.hub_port, self.cdn_port = (server.sockets[0].getsockname()[1] for server in servers)
        ready.set()
        await asyncio.gather(*(server.serve_forever() for server in servers))

    def hub_reply(self, target: bytes, head: bytes) -> bytes:
        """Return the answer of the first origin."""
        if target.startswith(b"/api/models?"):
            self.counts["listing"] += 1
            return self._page(target)
        if found := _RESOLVE.fullmatch(target):
            self.counts["resolve"] += 1
            return self._redirect(int(found[1]), found[2])
        self.counts["unknown"] += 1
        return _reply(404, b"", b"X-Error-Code: EntryNotFound\r\n" + _limit(b"resolvers"))

    def cdn_reply(self, target: bytes, head: bytes) -> bytes:
        """Return the answer of the second origin."""
        self.counts["range"] += 1
        number = int(target.partition(b"?")[0][1:])
        content, asked = self._contents[number % CONTENTS], _RANGE.search(head)
        start, stop = (int(asked[1]), int(asked[2]) + 1) if asked else (0, content.size)
        body = content.read(start, stop)
        headers = b'ETag: "%d"\r\nContent-Range: bytes %d-%d/%d\r\n'
        return _reply(206, body, headers % (number, start, start + len(body) - 1, content.size))

    def _page(self, target: bytes) -> bytes:
        cursor = _CURSOR.search(target)
        first = int(cursor[1]) if cursor else 0
        last = min(first + PAGE_MODELS, self.models)
        entries = b",".join(self._entry % (n, n % 997, n, self._sha(n), self.models - n) for n in range(first, last))
        more = b"http://127.0.0.1:%d/api/models?limit=1000&cursor=%d" % (self.hub_port, last)
        link = b'Link: <%s>; rel="next"\r\n' % more if last < self.models else b""
        return _reply(200, b"[" + entries + b"]", link + b"Content-Type: application/json\r\n" + _limit(b"api"))

    def _redirect(self, number: int, sha: bytes) -> bytes:
        size = self._contents[number % CONTENTS].size
        headers = b'Location: http://127.0.0.1:%d/%d?Signature=x\r\nX-Repo-Commit: %s\r\nX-Linked-Size: %d\r\n' % (
            self.cdn_port, number, sha, size)  # fmt: skip
        sha256 = hashlib.sha256(sha).hexdigest().encode()  # no two models hold the same weights
        return _reply(302, b"", headers + b'X-Linked-Etag: "%s"\r\n' % sha256 + _limit(b"resolvers"))

    def _sha(self, number: int) -> bytes:
        return b"%08x%032x" % (number < self.changed, number)


class _Connection(asyncio.Protocol):
    """One connection: answers what comes, in its order."""

    def __init__(self, hub: ScaleHub, reply: Callable[[bytes, bytes], bytes]) -> None:
        self._hub, self._reply, self._data = hub, reply, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._data = (self._data + data).split(b"\r\n\r\n")
        for head in heads:
            answer = self._reply(head.split(b" ", 2)[1], head)
            if self._hub.latency_s:
                asyncio.get_running_loop().call_later(self._hub.latency_s, self._transport.write, answer)
            else:
                self._transport.write(answer)


def _reply(status: int, body: bytes, headers: bytes) -> bytes:
    return b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)


def _limit(bucket: bytes) -> bytes:
    return _LIMIT % (bucket, bucket)


def _entry_template(config: Any) -> bytes:
    """Return a listing's entry of about 3 kB with holes for number, organisation, number, sha and downloads."""
    config = {**config, "tokenizer_config": {"chat_template": "{{ message }}" * 100, "eos_token": "</s>"}}
    facts = {
        "author": "scale",
        "createdAt": "2024-01-01T00:00:00.000Z",
        "lastModified": "2024-01-02T00:00:00.000Z",
        "private": False,
        "gated": False,
        "disabled": False,
        "likes": 3,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": _TAGS,
        "siblings": [{"rfilename": name} for name in _OTHERS],
        "config": config,
        "safetensors": {"parameters": {"BF16": 6738415616}, "total": 6738415616},
    }
    rest = json.dumps(facts).encode().replace(b"%", b"%%")
    return b'{"_id":"%024x","id":"scale-%d/model-%d","sha":"%s","downloads":%d,' + rest[1:]


def main() -> None:
    import sys

    hub, ready = ScaleHub(sys.argv[1]), threading.Event()
    threading.Thread(target=lambda: asyncio.run(hub.serve(ready)), daemon=True).start()
    ready.wait()
    answer_lines(lambda question: hub.answer(**question))


if __name__ == "__main__":
    main()
