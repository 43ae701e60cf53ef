"""Probe the models of a job file: python -m tasks.model JOB [--out FILE].

JOB holds a JSON object on each line (tasks/model/jobs.py says which); FILE gets a line for each model that is done,
whatever came of it. Run again, it passes over what FILE holds: stopped at any point, it costs the model at hand.
Needs NumPy, torch, transformers and safetensors, and for models on the Hub what `tasks.hub` needs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tasks.model.isolation import run_isolated
from tasks.model.jobs import Job, parse_jobs
from tasks.model.results import append, done, line_of, read_results


def main() -> int:
    """Do the jobs of a file."""
    parser = argparse.ArgumentParser(prog="python -m tasks.model", description=__doc__, formatter_class=_Plain)
    parser.add_argument("jobs", type=Path, metavar="JOB", help="the jobs, a JSON object per line")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the results; default: JOB with .out.jsonl behind")
    args = parser.parse_args()
    out: Path = args.out or args.jobs.with_name(f"{args.jobs.name}.out.jsonl")
    try:
        jobs = parse_jobs(args.jobs.read_text(encoding="utf-8"), str(args.jobs))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    finished = done(read_results(out))
    for number, job in enumerate(jobs, start=1):
        if job.digest not in finished:
            _do(job, f"{number}/{len(jobs)} {job.repo_id}", out)
    return 0


class _Plain(argparse.RawDescriptionHelpFormatter):
    """The description as it is written."""


def _do(job: Job, called: str, out: Path) -> None:
    found = run_isolated(job, lambda text: print(f"{called}: {text}", file=sys.stderr))
    append(out, line_of(job, found))
    for one in found:
        print(f"{called}: {one.row['weights']}: {one.row['status']}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
