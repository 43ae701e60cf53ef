"""Serve the demo's Hub until interrupted: `python -m deployments.demo --cache FOLDER`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from pathlib import Path

from deployments.demo.models import DEMO_TOKEN, build_models, demo_faults, demo_repos
from deployments.demo.standin import StandIn, Switches


def main() -> None:
    """Build the models if need be, print HF_ENDPOINT and HF_TOKEN as a shell takes them, and serve."""
    arguments = parsed()
    build_models(arguments.cache, lambda name: print(f"building {name}", file=sys.stderr))
    switches = Switches(latency_s=arguments.latency_ms / 1000, faults=demo_faults())
    with StandIn(demo_repos(arguments.cache), token=DEMO_TOKEN, switches=switches, port=arguments.port) as hub:
        print(f"export HF_ENDPOINT={hub.endpoint} HF_TOKEN={DEMO_TOKEN}", flush=True)
        for ending in (signal.SIGINT, signal.SIGTERM):  # also where a shell's background job would not see them
            signal.signal(ending, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m deployments.demo", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the models; built on the first run")
    parser.add_argument("--port", type=int, default=0, help="of the hub; a free one unless given")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="added to each answer")
    return parser.parse_args()


if __name__ == "__main__":
    main()
