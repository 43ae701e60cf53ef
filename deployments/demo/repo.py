"""A model repo as the stand-in Hub holds it: its files, and the facts that a listing tells of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from deployments.demo.checkpoint import read_header
from deployments.demo.content import BytesContent, Content, FileContent

LARGE_BYTES = 10_000_000  # the Hub takes no larger file outside its large-file storage
LARGE_SUFFIXES = (".safetensors", ".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".pt")
DIGEST_KEYS = ("architectures", "model_type", "quantization_config", "auto_map")
TOKENIZER_KEYS = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "chat_template")


@dataclass
class StandInRepo:
    """One model repo: its branch `main`, and the commits before; fields may be changed while the stand-in runs.

    Attributes:
        repo_id: "organisation/name".
        files: content by path within the repo.
        sha: the commit, 40 hexadecimal digits; derived from repo_id unless given.
        created_at, last_modified: ISO 8601, UTC.
        downloads: of the last 30 days.
        gated: False, or how access is granted.
        readable_by_token: whether the stand-in's token opens the repo, where it is private or gated; the listing shows
            a private repo to the token either way.
        parameter_count: as the listing tells it; summed from the headers unless given.
        earlier: the files of commits that `commit` has replaced, by sha.
    """

    repo_id: str
    files: dict[str, Content]
    sha: str = ""
    created_at: str = "2024-01-01T00:00:00.000Z"
    last_modified: str = "2024-01-02T00:00:00.000Z"
    downloads: int = 0
    likes: int = 0
    library_name: str | None = "transformers"
    pipeline_tag: str | None = None
    tags: tuple[str, ...] = ()
    gated: Literal[False, "auto", "manual"] = False
    private: bool = False
    readable_by_token: bool = True
    disabled: bool = False
    parameter_count: int | None = None
    earlier: dict[str, dict[str, Content]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.repo_id.count("/") != 1:
            raise ValueError(f"a repo is named organisation/name, not {self.repo_id!r}")
        self.sha = self.sha or hashlib.sha1(self.repo_id.encode()).hexdigest()

    def commit(self, sha: str, files: dict[str, Content]) -> None:
        """Let `main` be another commit; the one before can still be read by its sha, as on the Hub."""
        self.earlier[self.sha] = self.files
        self.sha, self.files = sha, files
        self.__dict__.pop("safetensors", None)

    def at(self, revision: str) -> StandInRepo | None:
        """Return the repo as of a commit, or of `main`; None where there is no such revision."""
        if revision in ("main", self.sha):
            return self
        return replace(self, sha=revision, files=self.earlier[revision]) if revision in self.earlier else None

    @property
    def author(self) -> str:
        """Return the organisation or user that owns the repo."""
        return self.repo_id.partition("/")[0]

    @property
    def all_tags(self) -> list[str]:
        """Return the tags as a listing shows and filters them: those given and those that follow from the files."""
        formats = ["safetensors"] if any(path.endswith(".safetensors") for path in self.files) else []
        named = [tag for tag in (self.library_name, self.pipeline_tag) if tag]
        return list(dict.fromkeys([*named, *formats, *self.tags]))

    def is_large(self, path: str) -> bool:
        """Return whether the file lies in large-file storage, and so behind a redirect to the CDN."""
        return path.endswith(LARGE_SUFFIXES) or self.files[path].size > LARGE_BYTES

    def sha256_of(self, path: str) -> str:
        """Return the file's sha256, or for a sparse file, too long to be hashed, one made up from its name."""
        content = self.files[path]
        if isinstance(content, BytesContent | FileContent):
            return content.sha256
        return hashlib.sha256(f"{self.repo_id}/{path}".encode()).hexdigest()

    def xet_hash_of(self, path: str) -> str:
        """Return the hash by which a large file's chunks would be asked for, made up from its sha256."""
        return hashlib.sha256(f"xet {self.sha256_of(path)}".encode()).hexdigest()

    def oid_of(self, path: str) -> str:
        """Return the git blob id: of the file itself, or of the pointer that stands for a large one."""
        content = self.files[path]
        data = self.sha256_of(path).encode() if self.is_large(path) else content.read(0, content.size)
        return hashlib.sha1(b"blob %d\0%s" % (len(data), data)).hexdigest()

    def config_digest(self) -> dict[str, Any] | None:
        """Return what a listing tells of config.json (no epsilons, no sizes); None where there is none to tell of."""
        config, tokenizer = self._json("config.json"), self._json("tokenizer_config.json")
        digest = {key: config[key] for key in DIGEST_KEYS if key in config}
        if tokenizer:
            digest["tokenizer_config"] = {key: tokenizer[key] for key in TOKENIZER_KEYS if key in tokenizer}
        return digest or None

    @cached_property
    def safetensors(self) -> dict[str, Any] | None:
        """Return the parameters by dtype and in total, as a listing tells them; None without safetensors."""
        parameters: Counter[str] = Counter()
        for dtype, elements in self._tensors():
            parameters[dtype] += elements
        total = self.parameter_count if self.parameter_count is not None else parameters.total()
        return {"parameters": parameters, "total": total} if total else None

    def _tensors(self) -> Iterator[tuple[str, int]]:
        weights = [path for path in self.files if path.endswith(".safetensors")]
        for path in ["model.safetensors"] if "model.safetensors" in weights else weights:
            for tensor in (read_header(self.files[path]) or {}).values():
                with suppress(
                    TypeError, KeyError, ValueError, OverflowError
                ):  # tests serve headers that are wrong on purpose
                    yield str(tensor["dtype"]), math.prod(int(length) for length in tensor["shape"])

    def _json(self, path: str) -> dict[str, Any]:
        content = self.files.get(path)
        try:
            value = json.loads(content.read(0, content.size)) if content else {}
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


def repo_from_folder(repo_id: str, folder: Path, **facts: Any) -> StandInRepo:
    """Return a repo with every file below a folder; facts are fields of `StandInRepo`."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    files: dict[str, Content] = {path.relative_to(folder).as_posix(): FileContent(path) for path in paths}
    return StandInRepo(repo_id, files, **facts)
