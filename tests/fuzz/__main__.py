"""Fuzz the parsers with atheris: `python -m tests.fuzz`, or `python -m tests.fuzz header` for one of them.

Prints executions, paths found and findings of each target. Inputs that led down a new path are kept in
`.cache/fuzz/TARGET` for the next run. An input that broke something lies there as `crash-…`, `timeout-…` or `oom-…`,
and `python -m tests.fuzz TARGET --input FILE` runs it again.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import CACHE, TARGETS

WORDS = "dtype shape data_offsets __metadata__ weight_map metadata total_size headers index config siblings rfilename"
TOKENS = [
    *(f'"{word}":' for word in WORDS.split()),
    '"F32"',
    '"BF16"',
    "[0,8]",
    "[]",
    "{}",
    "null",
    "true",
    "-1",
    "1e9",
]


def fuzz_all(targets: list[str], seconds: int) -> bool:
    """Fuzz each target for some seconds, each in a process of its own; print a table; return whether all is well."""
    print(f"{'target':12}{'executions':>12}{'a second':>10}{'paths':>8}  findings", flush=True)
    return all([_fuzz_one(name, seconds) for name in targets])


def _fuzz_one(name: str, seconds: int) -> bool:
    corpus = _prepared(name)
    command = [sys.executable, "-m", "tests.fuzz.inside", name, str(seconds)]
    said = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    figures = dict(re.findall(r"stat::(\w+):\s+(\d+)", said.stderr))
    paths = re.findall(r"\bcov: (\d+)", said.stderr)
    found = sorted(path.name for path in corpus.iterdir() if re.match(r"(crash|timeout|oom)-", path.name))
    runs, rate = int(figures.get("number_of_executed_units", 0)), int(figures.get("average_exec_per_sec", 0))
    print(f"{name:12}{runs:12,}{rate:10,}{paths[-1] if paths else '?':>8}  {', '.join(found) or 'none'}", flush=True)
    is_well = said.returncode == 0 and not found
    if not is_well:
        print(said.stderr[-4_000:], flush=True)
    return is_well


def _prepared(name: str) -> Path:
    """Return a target's corpus, its seeds and the dictionary in it."""
    corpus = CACHE / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    quoted = (token.replace("\\", "\\\\").replace('"', '\\"') for token in TOKENS)
    (CACHE / "json.dict").write_text("\n".join(f'"{token}"' for token in quoted) + "\n")
    return corpus


def main() -> None:
    """Read the command line, and fuzz."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers.")
    parser.add_argument("targets", nargs="*", default=[*TARGETS], help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--input", type=Path, help="run one input again, and fuzz nothing")
    arguments = parser.parse_args()
    if arguments.input:
        TARGETS[arguments.targets[0]].run(arguments.input.read_bytes())
    else:
        sys.exit(0 if fuzz_all(arguments.targets, arguments.seconds) else 1)


if __name__ == "__main__":
    main()
