"""What tests of the stand-in Hub share: the repos that it holds, and requests to it."""

from __future__ import annotations

import json

from deployments.demo.catalogue import BytesContent, StandInRepo
from deployments.demo.standin import StandIn
from tests.asking import Answer, ask
from tests.hub_tools import TOKEN as TOKEN

WEIGHTS = bytes(range(256)) * 40
CONFIG = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5}).encode()
INDEX = json.dumps({"weight_map": {f"layer.{i}.weight": "model.safetensors" for i in range(40)}}).encode()


def repo(name: str, **facts: object) -> StandInRepo:
    """Return a repo of two large files and three small ones."""
    files = {
        "README.md": BytesContent(b"# A model"),
        "config.json": BytesContent(CONFIG),
        "model.safetensors": BytesContent(WEIGHTS),
        "model.safetensors.index.json": BytesContent(INDEX),
        "onnx/model with space.bin": BytesContent(b"other weights"),
    }
    return StandInRepo(f"org/{name}", files, **facts)  # type: ignore[arg-type]


def stock() -> list[StandInRepo]:
    """Return a repo of each kind of access, and one without files."""
    return [
        repo("plain", downloads=5, likes=9, tags=("license:mit",), created_at="2024-03-01T00:00:00.000Z"),
        repo("popular", downloads=900, likes=1, pipeline_tag="text-generation"),
        repo("gated", gated="manual", readable_by_token=False),
        repo("granted", gated="auto"),
        repo("disabled", disabled=True),
        repo("private", private=True),
        repo("locked", private=True, readable_by_token=False),
        StandInRepo("other/model", {}, downloads=50),
    ]


def resolve(hub: StandIn, name: str, path: str = "model.safetensors", method: str = "GET", **headers: str) -> Answer:
    """Return what the hub answers to a request for a file."""
    return ask(f"{hub.endpoint}/org/{name}/resolve/main/{path}", method, **headers)


def cdn_url(hub: StandIn, **headers: str) -> str:
    """Return a signed URL of the weights."""
    return resolve(hub, "plain", **headers).headers["location"]


def ids(answer: Answer) -> list[str]:
    """Return the ids of the repos on a page of the listing."""
    return [entry["id"] for entry in answer.json()]
