"""The command `normaudit` for tests: run in this process or in one of its own, and what it printed or stored."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from storage.database import open_database
from storage.store import open_store
from tests.checkpoints import GPT2_CONFIG, gpt2, safetensors_file

ROOT = Path(__file__).resolve().parent.parent


def normaudit(*arguments: object, **options: Any) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


@contextmanager
def process(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run the command in a process of its own, which does not outlive the block."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **options}
    with subprocess.Popen(command, **options) as running:
        try:
            yield running
        finally:
            running.kill()


def objects(result: Result) -> list[Any]:
    """Return the objects that a run printed, one a line."""
    return [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]


def count(location: object, table: str) -> int:
    """Return how many rows a table of a store has."""
    with open_database(open_store(location)) as database:
        return database.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0]


def checkpoint(path: Path, tensors: Mapping[str, Any] | None = None, config: object = GPT2_CONFIG) -> Path:
    """Make a local checkpoint, a GPT-2 unless other tensors are given; return its folder."""
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(safetensors_file(tensors or gpt2()))
    (path / "config.json").write_text(json.dumps(config))
    return path
