"""An S3-protocol server on loopback for tests: moto's, with what a test needs to see of it and to stop in it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from storage.place import Place


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the server saw it."""

    method: str
    path: str
    query: str
    size_bytes: int
    content_type: str
    condition: str
    range: str


class S3Server:
    """A server for the length of a block; requests are answered one at a time, so that a condition holds as on S3.

    Attributes:
        requests: those answered so far.
        before: called with each request before it is answered.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
        self.requests: list[Request] = []
        self.before: Callable[[Request], None] = lambda request: None
        self._app = DomainDispatcherApplication(create_backend_app)
        self._one_at_a_time = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def create_bucket(self, name: str) -> None:
        """Make a bucket."""
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")):
            pass

    def asked(self, method: str, ending: str = "") -> list[Request]:
        """Return the requests so far with this method whose path ends so."""
        return [request for request in self.requests if request.method == method and request.path.endswith(ending)]

    def environment(self) -> dict[str, str]:
        """Return the variables with which a client finds the server."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "AKIATESTS", "AWS_SECRET_ACCESS_KEY": "hush-hush"}

    def __enter__(self) -> S3Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            environ.get("QUERY_STRING", ""),
            int(environ.get("CONTENT_LENGTH") or 0),
            environ.get("CONTENT_TYPE") or "",
            environ.get("HTTP_IF_MATCH") or environ.get("HTTP_IF_NONE_MATCH") or "",
            environ.get("HTTP_RANGE") or "",
        )
        self.before(request)
        with self._one_at_a_time:
            self.requests.append(request)
            return list(self._app(environ, start_response))


def put(place: Place, name: str, content: bytes = b"x") -> None:
    """Write a file of a place."""
    with place.writing(name) as file:
        file.write(content)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process that runs code."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
