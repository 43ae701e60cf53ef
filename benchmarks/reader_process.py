"""Processes that answer each line of JSON with another one, and end by themselves when their stdin closes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 20

Message = dict[str, Any]


class Child:
    """A Python module of this repository, run in a process of its own from `with` to its end.

    Args:
        module: its dotted name; it calls `answer_lines`.
        arguments: of its command line.
        environment: variables to set, besides those of this process.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self._environment,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        process.communicate(timeout=STOP_S) if error is None else process.kill()
        process.__exit__(kind, error, trace)

    def ask(self, **question: Any) -> Message:
        """Return the answer to one question.

        Raises:
            RuntimeError: the process ended instead; its own message stands on stderr.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command[1:])} ended with status {self._process.wait()}, no answer")
        answer: Message = json.loads(line)
        return answer


def answer_lines(answer: Callable[[Message], Message]) -> None:
    """Answer the questions that come on stdin, until it closes."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
