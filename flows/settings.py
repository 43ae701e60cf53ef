"""Every knob of the nightly audit: one frozen model, read from TOML; a wrong key or value is refused with its line.

Precedence: what the command line gives, then the file, then the environment, then the defaults below. `HF_TOKEN` and
`HF_ENDPOINT` mean what they mean to huggingface_hub; a token never stands in a settings file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

HUB = "https://huggingface.co"
DEMO = "demo"  # as an endpoint: the stand-in Hub that ships with the project, on loopback
DEFAULT_CONFIG = Path("deployments/nightly.toml")
STORE_VARIABLE = "NORMAUDIT_STORE"
SCHEDULED = ("dask", "ray")  # runners whose workers another program starts and watches
_ADDRESS = re.compile(r"[a-z]+://[^\s/]+:\d{1,5}")

Whole = Annotated[int, Field(strict=True)]  # not strict, `true` would be 1
Number = Annotated[float, Field(strict=True)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
RepoId = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?(@[\w./-]+)?$", max_length=256)]
OptOut = Annotated[str, Field(pattern=r"^[\w.*?-]+(/[\w.*?-]+)?$", max_length=256)]


class SettingsError(ValueError):
    """A settings file that cannot be used; the message names file, line, key, what was given and what would do."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """Some of the Hub's models: a ranking with filters, an author's, a list, or a file with one repo a line."""

    top: Whole | None = Field(None, ge=1, description="so many models, in the order of `sort`; absent: all that match")
    sort: Literal["downloads", "likes", "created_at", "last_modified", "trending_score"] = "downloads"
    filters: tuple[str, ...] = Field(
        (), description="tags that a model must have, such as safetensors or text-generation"
    )
    author: str | None = Field(None, description="user or organisation")
    search: str | None = Field(None, description="text that the repo's name must contain")
    repos: tuple[RepoId, ...] = Field((), description="explicit repos: org/name or org/name@revision")
    file: Path | None = Field(None, description="a text file with one repo a line; # begins a comment")

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        listed = self.top is not None or self.author is not None or self.search is not None or bool(self.filters)
        if listed + bool(self.repos) + (self.file is not None) != 1:
            raise ValueError("a source is either a query (top, filters, author, search), or repos, or file")
        return self


class Limits(_Frozen):
    """Where a night, a batch and a model stop."""

    models: Whole = Field(1_000_000, ge=1, description="models a night")
    requests: Whole = Field(1_000_000, ge=1, description="requests to the Hub a night; what is left waits for the next")
    bytes: Whole = Field(200_000_000_000, ge=1, description="bytes read a night")
    model_bytes: Whole = Field(64_000_000, ge=100_000, description="bytes read of one model; beyond it is too_large")
    weights_evidence_bytes: Whole = Field(
        0, ge=0, description="bytes on top, of matrices, read of a model where nothing else tells a norm's kind"
    )
    concurrency: Whole = Field(64, ge=1, le=1024, description="models in flight")
    batch_models: Whole = Field(500, ge=1, le=10_000, description="models a Prefect task, and a part of each table")
    timeout_s: Number = Field(30, gt=0, le=600, description="seconds without an answer until a request is given up")
    retries: Whole = Field(4, ge=0, le=20, description="further tries after a transient fault")
    shard_headers: Literal["auto", "api", "index"] = Field(
        "auto",
        description="what tells the shards' tensors: the Hub's API in one request, the index in two, or what has quota",
    )
    workers: Whole = Field(
        1,
        ge=1,
        le=1000,
        description="processes that share the token's rate limit; as many audit where `runner` says so",
    )


class Gate(_Frozen):
    """When a night is not published."""

    max_failed_fraction: Fraction = Field(0.05, description="share of status `failed` among the night's audits")
    min_models: Whole = Field(
        20, ge=1, description="with fewer audits than this the share says nothing, and is not judged"
    )


class Probing(_Frozen):
    """Which models a night runs, where, and what that may cost."""

    deployment: str = Field(
        "probe/probe", pattern="^[^/]+/[^/]+$", description="the flow that GPU workers run; used while one is online"
    )
    query: str | None = Field(
        None,
        description="SELECT repo_id, sha, parameters, bytes in the order of their turns; absent: the most downloaded of"
        " each architecture that has no probe at its revision",
    )
    models: Whole = Field(100, ge=1, le=100_000, description="models a night")
    parameters: Whole = Field(10_000_000_000, ge=1, description="parameters of one model")
    bytes: Whole = Field(500_000_000_000, ge=1, description="bytes of all chosen checkpoints together")
    gpu_seconds: Whole = Field(10_800, ge=0, description="wall time on GPU workers a night; 0: none")
    cpu_seconds: Whole = Field(0, ge=0, description="wall time here a night, where no GPU worker is online; 0: none")
    model_seconds: Whole = Field(1_800, ge=1, description="wall time of one model")
    wait_seconds: Whole = Field(600, ge=1, description="how long a job may wait for a GPU worker that is busy")
    device: str = Field("cuda", description="of the GPU workers, as torch names it")
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = Field("float32", description="of a model's body")
    weights: Literal["random", "trained", "both"] = Field("both", description="random initialisation, the checkpoint")
    tokens: Whole | None = Field(None, ge=8, description="tokens a model; absent: four times its width")


class AuditSettings(_Frozen):
    """What whoever audits some of a night's models must know, on whatever machine."""

    endpoint: str = Field(HUB, description='the Hub\'s URL, or "demo"')
    contact: str = Field("", max_length=200, description="e-mail address or URL, sent to the Hub in the User-Agent")
    store: str | None = Field(
        None, description="folder of the results; absent: $NORMAUDIT_STORE or store, for the demo demo-store"
    )
    norms: Literal["final", "all"] = Field("final", description="whose scales are read")
    dead_tau: Number = Field(1e-4, gt=0, lt=1, description="near-dead: |γ| ≤ dead_tau · rms(γ)")
    limits: Limits = Limits()

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, endpoint: str) -> str:
        from tasks.hub import HubOptions  # here: commands that only read a store need no client of the Hub

        if endpoint != DEMO:
            HubOptions(endpoint)
        return endpoint

    @field_validator("contact")
    @classmethod
    def _can_be_sent(cls, contact: str) -> str:
        from tasks.hub import HubOptions

        return HubOptions(HUB, contact=contact).contact

    @property
    def store_location(self) -> str:
        """Where the results go."""
        return self.store or (DEMO_STORE if self.endpoint == DEMO else STORE)

    @property
    def for_a_worker(self) -> AuditSettings:
        """These settings as another machine gets them."""
        values = self.model_dump(include={*AuditSettings.model_fields})
        return AuditSettings.model_validate({**values, "store": self.store_location})

    @property
    def hub_url(self) -> str | None:
        """Where a repo's page is, for links; None where the Hub has no pages for people."""
        return self.endpoint.rstrip("/") if self.endpoint.startswith("https://") else None


class NightlySettings(AuditSettings):
    """The nightly audit's settings."""

    sources: tuple[Source, ...] = Field(min_length=1)
    opt_out: tuple[OptOut, ...] = Field((), description="repos never audited: org/name, or a pattern such as org/*")
    runner: Literal["threads", "dask", "ray", "workers"] = Field(
        "threads",
        description="who audits: this process; limits.workers tasks at a time of a Dask or Ray scheduler; or this"
        " process and limits.workers - 1 runs on further crawl workers",
    )
    scheduler: str | None = Field(
        None, validate_default=True, description="where Dask or Ray listens: tcp://host:8786, ray://host:10001"
    )
    gate: Gate = Gate()
    probe: Probing = Probing()

    @field_validator("scheduler")
    @classmethod
    def _goes_with_its_runner(cls, scheduler: str | None, info: ValidationInfo) -> str | None:
        if "runner" not in info.data:  # it is wrong itself
            return scheduler
        runner = info.data["runner"]
        if (runner in SCHEDULED) != (scheduler is not None):
            needed = "needs a" if runner in SCHEDULED else "takes no"
            raise ValueError(f'runner = "{runner}" {needed} scheduler; {" and ".join(SCHEDULED)} each take an address')
        if scheduler is not None and not _ADDRESS.fullmatch(scheduler):
            raise ValueError("no address of a scheduler, such as tcp://host:8786 for Dask or ray://host:10001 for Ray")
        return scheduler


STORE = "store"
DEMO_STORE = "demo-store"


def load_settings(path: Path, **overrides: Any) -> NightlySettings:
    """Return the settings of a TOML file, with overrides in place of its top-level keys.

    `HF_ENDPOINT` stands in for the Hub's own address where the file names that, and `NORMAUDIT_STORE` for the store
    where none is named; the demo keeps to its own.

    Raises:
        SettingsError: the file cannot be read, is no TOML, or holds a wrong key or value.
    """
    try:
        text = path.read_text()
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise SettingsError(_TOO_DEEP.format(path=path)) from error
    given = {name: value for name, value in overrides.items() if value is not None}
    givers = {name: f"--{name}" for name in given}
    if (values | given).get("store") is None and (values | given).get("endpoint") != DEMO and _named_store():
        given["store"], givers["store"] = _named_store(), STORE_VARIABLE
    if (values | given).get("endpoint", HUB) == HUB and os.environ.get("HF_ENDPOINT"):
        given["endpoint"], givers["endpoint"] = os.environ["HF_ENDPOINT"], "HF_ENDPOINT"
    try:
        return NightlySettings.model_validate(values | given)
    except ValidationError as error:
        raise SettingsError("\n".join(_complaints(error, path, text, givers))) from error


def default_store() -> str:
    """Return the store that a reading command uses when none is named: $NORMAUDIT_STORE, ./store, or the demo's."""
    if named := _named_store():
        return named
    return DEMO_STORE if Path(DEMO_STORE).is_dir() and not Path(STORE, "parts").is_dir() else STORE


def _named_store() -> str | None:
    return os.environ.get(STORE_VARIABLE) or None


_TOO_DEEP = "{path}: nested deeper than any setting is; see deployments/nightly.toml for those that exist"


def _complaints(error: ValidationError, path: Path, text: str, givers: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each fault; givers name who gave the top-level keys that are not the file's."""
    faults = error.errors()
    for fault in faults:
        place = fault["loc"]
        if any(other["loc"][: len(place)] == place != other["loc"] for other in faults):
            continue  # that a list is too short follows from the fault of what is in it
        given = "" if fault["type"] == "missing" else f", given {_brief(fault['input'])}"
        yield f"{_where(place, path, text, givers)}: {_plain(fault)}{given}"


def _where(place: tuple[int | str, ...], path: Path, text: str, givers: Mapping[str, str]) -> str:
    if place and (giver := givers.get(str(place[0]))):
        return giver
    line = _line_of(text, place)
    return f"{path}{f', line {line}' if line else ''}: {'.'.join(map(str, place)) or 'the file'}"


def _brief(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except RecursionError:  # a dotted key nests as deep as it is long
        return "a table nested too deeply to show"


def _plain(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "no such setting; see the comments in deployments/nightly.toml for those that exist"
    message: str = fault["msg"]
    return message.removeprefix("Value error, ")


def _line_of(text: str, location: tuple[int | str, ...]) -> int | None:
    """Return the line of the longest part of location that stands in the TOML text, or None."""
    lines = dict(_positions(text))
    return next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)


def _positions(text: str) -> Iterator[tuple[tuple[int | str, ...], int]]:
    """Yield (location, line number) of every table header and key that begins a line."""
    table: tuple[int | str, ...] = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[\[?)\s*([\w.-]+)\s*\]", line):
            name = header[2]
            counts[name] = counts.get(name, -1) + 1
            table = (*name.split("."), counts[name]) if header[1] == "[[" else tuple(name.split("."))
            yield table, number
        elif key := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            yield (*table, key[1]), number
