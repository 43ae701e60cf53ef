"""Measure the architecture that the config on stdin names, and print one JSON object: python -m tasks.model.behaviour.

What was measured is {"class", "line", "prefixes", "transformers"}; what failed is {"failed": why, "errors": […]}.
"""

from __future__ import annotations

import json
import sys

from tasks.model.behaviour.given import measure_config
from tasks.model.behaviour.limits import Limits, limited


def main() -> None:
    """Run the command; its arguments are the limits, in seconds and bytes."""
    seconds, memory_bytes = map(int, sys.argv[1:])
    config = json.loads(sys.stdin.buffer.read())
    print(json.dumps(limited(measure_config, config, limits=Limits(seconds, memory_bytes))))


if __name__ == "__main__":
    main()
