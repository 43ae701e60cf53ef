"""Plain HTTP requests for tests of the protocol: no redirects followed, nothing retried, nothing interpreted."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(url: str, method: str = "GET", body: str | None = None, timeout_s: float = 30, **headers: str) -> Answer:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=timeout_s)) as connection:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        # http.client's own headers keep duplicates and any case; a plain mapping is easier to compare
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
