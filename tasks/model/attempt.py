"""One job in one process: open what it names, probe it with each kind of weights, say what came of it.

    python -m tasks.model.attempt < job.json

The process is expendable: it runs under limits of memory and time, and whoever started it tells from its end what no
Python code could have told any more. Its stdout is one line of JSON for each message:

    {"say": "block 3 of 12"}
    {"row": {…}, "gamma": […]}
    {"out_of_memory": "…"}
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from tasks.core.errors import AuditError, shown
from tasks.core.registry import load_registry
from tasks.model.answers import Kind, Probed, Say, deepened, failed
from tasks.model.faults import NoProbe, in_words, no_probe
from tasks.model.files import FolderSource, read_json
from tasks.model.jobs import Job, parse_job
from tasks.model.memory import data_bytes, free_bytes
from tasks.model.parent import end_with_parent
from tasks.model.probe import Checkpoint, probe
from tasks.model.whole import is_out_of_memory

FREE_SHARE = 0.9  # of the free memory that a probe without a limit of its own may take


def main() -> int:
    """Do the job on stdin."""
    end_with_parent()
    with _own_stdout() as out:
        job = parse_job(json.load(sys.stdin))
        _get_ready()
        _limit_memory(job)

        def tell(message: dict[str, Any]) -> None:
            out.write(f"{json.dumps(message)}\n")
            out.flush()

        try:
            for found in probed(job, lambda text: tell({"say": text})):
                tell({"row": found.row, "gamma": found.gamma})
        except Exception as error:  # memory that has run out shows in many ways; all else is a defect, and a row
            if not is_out_of_memory(error):
                raise
            tell({"out_of_memory": in_words(error)})
    return 0


def probed(job: Job, say: Say) -> Iterator[Probed]:
    """Yield what a probe with each kind of weights finds; what it cannot answer is a row that says why.

    Raises:
        Exception: memory has run out.
    """
    before: Probed | None = None
    try:
        _check_device(job.device)
        with opened(job) as checkpoint:
            job = replace(job, sha=checkpoint.sha or job.sha)
            for kind in job.kinds:
                found = _answer(job, kind, checkpoint, partial(_prefixed, say, kind))
                yield deepened(before, found) if before else found
                before = found
    except NoProbe as error:
        yield from (failed(job, kind, error) for kind in job.kinds)


@contextlib.contextmanager
def opened(job: Job) -> Iterator[Checkpoint]:
    """Open what a job names: a folder, the config in the job itself, or a repo on the Hub.

    Raises:
        NoProbe: it is not there, or cannot be read.
    """
    if job.folder is not None:
        folder = Path(job.folder)
        if not folder.is_dir():
            raise NoProbe("not_found", f"{shown(job.repo_id)}: {shown(job.folder)} is no folder")
        config = read_json(folder / "config.json", f"{shown(job.repo_id)}/config.json")
        yield Checkpoint(config, folder, lambda: FolderSource(folder, shown(job.repo_id)))
    elif job.config is not None and job.weights == "random":
        yield Checkpoint(job.config, None, _no_source)
    else:
        from tasks.model.remote import opened_on_hub

        try:
            with opened_on_hub(job) as checkpoint:
                yield checkpoint
        except AuditError as error:
            raise no_probe(error) from error


def _prefixed(say: Say, kind: Kind, text: str) -> None:
    say(f"{kind}: {text}")


def _answer(job: Job, kind: Kind, checkpoint: Checkpoint, say: Say) -> Probed:
    try:
        return probe(job, kind, checkpoint, say)
    except NoProbe as error:
        return failed(job, kind, error)
    except AuditError as error:
        return failed(job, kind, no_probe(error))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        told = f"{shown(job.repo_id)}: defect in normaudit, please report it: {in_words(error)}"
        return failed(job, kind, NoProbe("failed", told))


def _no_source() -> Any:
    raise NoProbe("no_safetensors", "a job with a config of its own has no trained weights; name a folder or a repo")


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise NoProbe("failed", f"device {shown(name)} cannot be used: {in_words(error)}") from error


@contextlib.contextmanager
def _own_stdout() -> Iterator[IO[str]]:
    """Keep stdout for messages; what libraries print goes to stderr."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield out


def _get_ready() -> None:
    """Import what every probe needs, and keep it from talking."""
    import transformers
    import transformers.modeling_utils  # now, so that it does not count as memory of the model

    load_registry()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _limit_memory(job: Job) -> None:
    """Let allocations beyond the limit fail in this process, rather than have the system end another one."""
    device = torch.device(job.device)
    if device.type == "cuda":
        if job.limit_bytes and torch.cuda.is_available():
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, job.limit_bytes / total), device)
        return
    free = free_bytes(device)
    allowed = job.limit_bytes or (int(FREE_SHARE * free) if free else None)
    if allowed is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = data_bytes() + allowed
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


if __name__ == "__main__":
    sys.exit(main())
