"""Google's store on loopback for tests: its XML API as far as the client uses it, in front of moto's S3 server.

Google's API differs from Amazon's in the names of some headers and in what a write is bound to: the generation of the
file, a number that each write raises, 0 where there is no file. No emulator from the package index serves that API.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.s3_server import S3Server

_SOMEBODY = "AWS4-HMAC-SHA256 Credential=AKIATESTS/20260101/us-east-1/s3/aws4_request"  # moto looks at no signature


class GcsServer(S3Server):
    """A server for the length of a block.

    Attributes:
        conditions: the generations that writes were bound to so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conditions: list[int] = []
        self._generations: dict[str, int] = {}
        self._next = itertools.count(1)
        self._app = partial(self._translated, self._app)

    def credentials(self, folder: Path) -> dict[str, str]:
        """Write a file of credentials that names this server; return the variables with which a client finds it."""
        file = folder / "google.json"
        keys = {"client_email": "", "private_key": "", "private_key_id": ""}
        file.write_text(json.dumps({"gcs_base_url": self.url, "disable_oauth": True, **keys}))
        plain_http = {"AWS_ENDPOINT_URL": self.url}  # without a server named so, the client speaks HTTPS alone
        return {"GOOGLE_SERVICE_ACCOUNT": str(file), **plain_http}

    def _translated(self, s3: Any, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        expected = environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None)
        if source := environ.pop("HTTP_X_GOOG_COPY_SOURCE", None):
            environ["HTTP_X_AMZ_COPY_SOURCE"] = source
        environ["HTTP_AUTHORIZATION"] = _SOMEBODY
        if expected is not None:
            self.conditions.append(int(expected))
            if int(expected) != self._generations.get(path, 0):
                start_response("412 Precondition Failed", [("Content-Length", "0")])
                return [b""]

        def respond(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if int(status[:3]) < HTTPStatus.MULTIPLE_CHOICES:
                self._note(environ, path)
            if generation := self._generations.get(path):
                headers = [*headers, ("x-goog-generation", str(generation))]
            return start_response(status, headers, *rest)

        return s3(environ, respond)

    def _note(self, environ: dict[str, Any], path: str) -> None:
        """Note what a request that succeeded has made of the file."""
        is_piece = "partNumber=" in environ["QUERY_STRING"] or "uploads" in environ["QUERY_STRING"]
        if environ["REQUEST_METHOD"] == "DELETE":
            self._generations.pop(path, None)
        elif environ["REQUEST_METHOD"] in ("PUT", "POST") and not is_piece:
            self._generations[path] = next(self._next)
