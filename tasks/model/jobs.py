"""A job file: JSON lines, one probe of one model each.

    {"repo_id": "org/name", "sha": "…", "weights": "both", "tokens": 3072, "dtype": "bfloat16", "device": "cuda"}
    {"repo_id": "./model", "folder": "/data/model", "weights": "trained", "limit_s": 300}
    {"repo_id": "pythia-160m", "weights": "random", "config": {"model_type": "gpt_neox", …}}

Only repo_id is needed. The weights come from `folder` if it is given, else from the Hub; with a `config` and random
weights from nowhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Weights = Literal["random", "trained", "both"]
Inputs = Literal["text", "images", "audio", "random"]
Way = Literal["auto", "whole", "blocks"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
CHOICES: Mapping[str, tuple[str, ...]] = {
    "weights": get_args(Weights),
    "inputs": get_args(Inputs),
    "way": get_args(Way),
    "dtype": get_args(Dtype),
}
# what each field may be; an int will do for a float
TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("repo_id", "weights", "dtype", "device", "way"), (str,)),
    **dict.fromkeys(("sha", "folder", "inputs", "data"), (str, type(None))),
    **dict.fromkeys(("tokens", "batch_tokens", "limit_bytes"), (int, type(None))),
    "seed": (int,),
    "limit_s": (int, float),
    "config": (dict, type(None)),
}
# 8 tokens are enough for a verdict
LEAST: Mapping[str, float] = {"tokens": 8, "batch_tokens": 1, "limit_s": 1, "limit_bytes": 1, "seed": 0}
LIMIT_S = 1_800.0  # a model of 160 M parameters takes a minute on two cores


@dataclass(frozen=True, slots=True)
class Job:
    """One model to probe, and how.

    Attributes:
        repo_id: as it stands in the rows.
        sha: revision; of a local folder a hash; None where none is known.
        folder: local checkpoint; None: from the Hub.
        weights: random initialisation, the trained checkpoint, or both after each other.
        inputs: None: of the model's own kind.
        data: folder of images or WAV files; None: what the project ships, or noise.
        tokens: at least so many; None: four times the norm's width.
        dtype: of the model's body.
        device: as torch names it.
        seed: of weights and inputs.
        way: the whole model at once, block by block, or whatever fits.
        batch_tokens: tokens in one forward pass; None: by the memory there is.
        limit_s: wall time for the model.
        limit_bytes: memory for weights and activations; None: what is free.
        config: the config.json itself, for random weights without a folder.
    """

    repo_id: str
    sha: str | None = None
    folder: str | None = None
    weights: Weights = "both"
    inputs: Inputs | None = None
    data: str | None = None
    tokens: int | None = None
    dtype: Dtype = "float32"
    device: str = "cpu"
    seed: int = 0
    way: Way = "auto"
    batch_tokens: int | None = None
    limit_s: float = LIMIT_S
    limit_bytes: int | None = None
    config: Mapping[str, Any] | None = None

    @property
    def kinds(self) -> tuple[Literal["random", "trained"], ...]:
        """The kinds of weights to probe, in their order."""
        return ("random", "trained") if self.weights == "both" else (self.weights,)

    @property
    def digest(self) -> str:
        """Name of the job in the file of results: what is asked, without limits and batches."""
        asked = {k: v for k, v in asdict(self).items() if k not in ("batch_tokens", "limit_s", "limit_bytes")}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def parse_jobs(text: str, called: str) -> list[Job]:
    """Return the jobs of a file; empty lines are passed over.

    Raises:
        ValueError: a line is no job; the message names file and line and says what is wrong with it.
    """
    jobs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                jobs.append(parse_job(json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{called}, line {number}: {error}") from error
    return jobs


def parse_job(given: Any) -> Job:
    """Return the job that a JSON object describes.

    Raises:
        ValueError: it is no object, or has an unknown field, or a value that its field cannot have.
    """
    if not isinstance(given, dict) or not isinstance(given.get("repo_id"), str) or not given["repo_id"]:
        raise ValueError("a job is an object with at least a repo_id")
    unknown = given.keys() - {field.name for field in fields(Job)}
    if unknown:
        raise ValueError(f"no field {', '.join(sorted(unknown))}; there are {', '.join(TYPES)}")
    for name, value in given.items():
        _check(name, value)
    return Job(**given)


def as_json(job: Job) -> str:
    """Return the line of a job; `parse_job` is its inverse."""
    return json.dumps({name: value for name, value in asdict(job).items() if value is not None})


def _check(name: str, value: Any) -> None:
    if not isinstance(value, TYPES[name]) or isinstance(value, bool):
        kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in TYPES[name])
        raise ValueError(f"{name} is {value!r}; it must be {kinds}")
    if name in CHOICES and value is not None and value not in CHOICES[name]:
        raise ValueError(f"{name} is {value!r}; it can be {', '.join(CHOICES[name])}")
    least = LEAST.get(name)
    if least is not None and isinstance(value, int | float) and value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
