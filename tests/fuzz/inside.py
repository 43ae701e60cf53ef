"""The process that fuzzes one target and says how it went: `python -m tests.fuzz.inside TARGET SECONDS`.

Apart from `__main__`, because atheris must be there before what it is to watch is imported.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["tasks"]):
    from tests.fuzz.targets import CACHE, MAX_BYTES, MEMORY_LIMIT_MB, TARGETS, TIME_LIMIT_S


def main() -> None:
    """Fuzz until the time is over or something breaks."""
    name, seconds = sys.argv[1:]
    corpus = CACHE / name
    limits = [f"-max_total_time={seconds}", f"-timeout={TIME_LIMIT_S}", f"-rss_limit_mb={MEMORY_LIMIT_MB}"]
    output = [f"-artifact_prefix={corpus}/", f"-dict={CACHE}/json.dict", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(corpus), f"-max_len={MAX_BYTES}", *limits, *output], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
