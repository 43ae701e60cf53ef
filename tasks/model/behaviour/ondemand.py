"""Architectures that no registry knows, measured when they are asked for, in a process of its own.

This module needs neither torch nor transformers, and its process is the only one that imports them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.core.configs import is_digest
from tasks.core.errors import shown
from tasks.core.registry import FORMAT, Architecture, parse_registry
from tasks.model.behaviour.limits import Limits

LIMITS = Limits(seconds=120, memory_bytes=4 << 30)  # nearly all classes take under ten seconds and 1 GiB
START_S = 120  # for torch and transformers to be imported, on a slow disk
NEEDED = ("torch", "transformers")
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
GO_ON = "the audit goes on without it"


@dataclass(slots=True)
class OnDemand:
    """Measures the architecture that a config names by building it, tiny, and running it.

    Attributes:
        tell: is told of each architecture that could not be measured, in words.
        limits: of each architecture.
        needed: libraries without which nothing can be measured.
    """

    tell: Callable[[str], None]
    limits: Limits = LIMITS
    needed: tuple[str, ...] = NEEDED
    _known: dict[str, Architecture] = field(default_factory=dict)

    def __call__(self, config: Mapping[str, object]) -> Architecture | None:
        """Return the architecture that a config names; one without norms says why that could not be measured.

        Of the Hub's digest, the architecture depends on the rest of the config. None: the config names nothing.
        """
        name = _named(config)
        if name is None:
            return None
        if is_digest(config):
            return replace(_failed(name, "config.json was not read"), failure=None, depends_on=("config.json",))
        key = json.dumps(config, sort_keys=True)
        if key not in self._known:
            self._known[key] = self._measured(name, key)
        return self._known[key]

    def _measured(self, name: str, config: str) -> Architecture:
        missing = [library for library in self.needed if importlib.util.find_spec(library) is None]
        answer = {"failed": "extra", "errors": missing} if missing else _answer(config, self.limits)
        if "failed" not in answer:
            return _architecture(answer)
        why = f"--behaviour was to build {name} from its config and run it: {_why(answer, self.limits)}; {GO_ON}"
        self.tell(why)
        return _failed(name, why)


def _named(config: Mapping[str, object]) -> str | None:
    """Return what a config calls its architecture, for people."""
    names, model_type = config.get("architectures"), config.get("model_type")
    named = names[0] if isinstance(names, list | tuple) and names else model_type
    return shown(named, 80) if isinstance(named, str) and named else None


def _answer(config: str, limits: Limits) -> dict[str, Any]:
    """Return what the measuring process prints, or {"failed": why, …}."""
    environment = {key: value for key, value in os.environ.items() if key not in SECRETS} | OFFLINE
    command = [sys.executable, "-P", "-m", __package__, f"{limits.seconds:.0f}", str(limits.memory_bytes)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # so that it ends with all that it has started
    )
    try:
        printed, _ = process.communicate(config.encode(), timeout=limits.seconds + START_S)
        return dict(json.loads(printed or b'{"failed": "died"}'))
    except (subprocess.TimeoutExpired, ValueError) as error:
        return {"failed": "time" if isinstance(error, subprocess.TimeoutExpired) else "answer", "errors": [str(error)]}
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, and all of its group
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _architecture(answer: Mapping[str, Any]) -> Architecture:
    """Return what was measured as a registry would tell it."""
    name, line = answer["class"], answer["line"]
    document = {
        "format": FORMAT,
        "transformers_version": answer["transformers"],
        "prefixes": answer["prefixes"],
        "main_classes": {line["type"]: name},
        "architectures": {name: line},
    }
    found = parse_registry(json.dumps(document).encode()).architecture(name)
    return replace(found, source="behaviour", neutral=frozenset(answer["prefixes"]))


def _failed(name: str, why: str) -> Architecture:
    return Architecture("", name, (), "registration", source="behaviour", failure=why)


def _why(answer: Mapping[str, Any], limits: Limits) -> str:
    """Return why nothing was measured, and what can be done about it."""
    why, errors = answer["failed"], [str(error) for error in answer.get("errors") or ("",)]
    if why == "extra":
        return f"{' and '.join(errors)} not installed; install the extra `probe`"
    if why == "unknown":
        return f"transformers {shown(answer.get('transformers'), 20)} has no such class; a newer one may"
    if why == "time":
        return f"it took longer than {limits.seconds:.0f} s, and was ended"
    if why in ("died", "MemoryError"):
        return f"it took more than {limits.memory_bytes / 2**30:.0f} GiB, or was ended by the system"
    return f"{shown(why, 60)}: {shown(' '.join(errors[0].split()), 200)}"
