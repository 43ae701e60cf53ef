"""What travels between the stages of an audit: frozen records, parsed once at the edge.

Byte ranges are half-open `[start, stop)` and count from the first byte of the file. Names of tensors, files and repos
are untrusted text: show them through `errors.shown`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

READ_VERSION = 1  # raised when an audit begins to read something else from a checkpoint
METHOD_VERSION = 1  # raised when other figures or kinds are concluded from what was read; CHANGELOG says which

Kind = Literal["layernorm", "rmsnorm", "batchnorm", "groupnorm", "none", "unknown"]
Parameterisation = Literal["plain", "one_plus", "unknown"]
Site = Literal[
    "final", "pre_attention", "post_attention", "pre_mlp", "post_mlp", "query", "key", "embedding", "head", "other"
]
Status = Literal[
    "ok",
    "no_safetensors",
    "no_norms",
    "gated",
    "private",
    "disabled",
    "not_found",
    "bad_file",
    "too_large",
    "failed",
]
EvidenceSource = Literal["tensors", "config", "registry", "behaviour", "weights", "values"]


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repo: its path within the repo, its size in bytes and its sha256, where the listing gave them."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One repo as the Hub's listing describes it; every fact but the id may be missing (None or empty)."""

    repo_id: str
    sha: str | None = None
    files: tuple[RepoFile, ...] = ()
    config: Mapping[str, object] | None = None  # the Hub's digest: architectures, model_type, quantization_config, …
    author: str | None = None
    created_at: str | None = None  # ISO 8601, UTC
    last_modified: str | None = None  # ISO 8601, UTC
    downloads: int | None = None  # of the last 30 days
    likes: int | None = None
    library_name: str | None = None
    pipeline_tag: str | None = None
    tags: tuple[str, ...] = ()
    gated: str | None = None  # "auto", "manual"; None: not gated
    private: bool | None = None
    disabled: bool | None = None
    parameter_count: int | None = None
    is_head: bool = True  # sha is what the main branch points to, as far as is known


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request for the bytes `[start, stop)` of a file; stop None asks for the whole of a small file.

    Attributes:
        path: the file, within the repo.
        start: below 0 it counts from the file's end: the last -start bytes are wanted, and stop is None.
        stop: end of the range.
        limit_bytes: of a whole file: a longer one is TooLarge; None leaves it to whoever reads.
        is_guess: nothing hangs on it; it is tried once, and left out where it would cost a request to the Hub.
        unless: sha256s of files whose bytes are not wanted; of such a file the answer is its size and its hash.
        of: the file itself, or what the Hub claims of the headers of all shards that this index names.
    """

    path: str
    start: int = 0
    stop: int | None = None
    limit_bytes: int | None = None
    is_guess: bool = False
    unless: Container[str] = ()
    of: Literal["file", "claims"] = "file"

    @property
    def is_whole(self) -> bool:
        """Whether all of the file is wanted."""
        return self.stop is None and self.start >= 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """The bytes of a `Fetch`: exactly those asked for, or fewer where the file ends before its stop."""

    data: bytes
    file_bytes: int  # size of the whole file
    sha256: str | None = None  # of the whole file, where the server names it


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor as a safetensors header describes it; its bytes are `[start_byte, stop_byte)` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start_byte: int
    stop_byte: int


@dataclass(frozen=True, slots=True)
class Header:
    """A safetensors file's header: its tensors in the order of their bytes, and its free-form metadata."""

    tensors: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    header_bytes: int  # of the length field and the JSON together; the data starts here
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Index:
    """The index of a sharded checkpoint.

    Attributes:
        shards: {tensor name: file}, files relative to the index's folder.
        total_bytes: of the tensors together, as the index claims; None where it does not.
    """

    shards: Mapping[str, str]
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a checkpoint says of one tensor; dtype and shape are None where only an index has named it so far."""

    name: str
    file: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fact that bore on a norm's kind, parameterisation or place.

    Attributes:
        source: where it comes from.
        says: what it speaks for: a kind ("layernorm"), a parameterisation ("one_plus") or a site ("final").
        strength: from 0 (says nothing) to 1 (settles it).
        detail: the fact in words, for people.
    """

    source: EvidenceSource
    says: str
    strength: float
    detail: str


@dataclass(frozen=True, slots=True)
class Norm:
    """One normalisation layer, placed and classified."""

    module: str  # "transformer.ln_f"; "" for an unnamed norm at the root
    tower: str  # "text", "vision", "audio", "encoder", "decoder", …
    layer: int | None
    site: Site
    kind: Kind
    parameterisation: Parameterisation | None  # None: no scale is stored, so γ = 1
    confidence: float  # that the kind is right, 0 to 1; calibrated, see README
    decided_by: str  # source of the evidence that settled the kind
    is_final: bool = False
    is_main: bool = False
    scale_tensor: str | None = None
    bias_tensor: str | None = None
    file: str | None = None
    dim: int | None = None
    dtype: str | None = None
    eps: float | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class ScaleFigures:
    """Statistics of one norm's effective scale γ; None where γ holds NaN or Inf (maths.md, section 2)."""

    gamma_min: float | None
    gamma_max: float | None
    gamma_mean: float | None
    gamma_std: float | None
    gamma_rms: float | None
    zero_count: int
    negative_count: int
    dead_coordinate_count: int | None
    nonfinite_count: int


@dataclass(frozen=True, slots=True)
class KernelFigures:
    """Figures of the kernel direction u = γ⁻¹/‖γ⁻¹‖ of one norm (maths.md, section 2); None where there is none."""

    predicted_dead_dim: int | None
    dead_coordinate_count: int | None
    dead_coordinates: tuple[int, ...]
    dead_tau: float
    participation_ratio: float | None
    participation_fraction: float | None
    top_share: float | None
    top_coordinate: int | None
    cos_uniform: float | None
    condition_number: float | None
    u_dot_beta: float | None
    kernel_degenerate: bool | None


@dataclass(frozen=True, slots=True, eq=False)
class ReadNorm:
    """A norm with what was read of it; the vectors and the kernel for final norms only."""

    norm: Norm
    scale: ScaleFigures | None = None
    kernel: KernelFigures | None = None
    gamma: NDArray[np.float64] | None = None  # effective scale, shape (dim,)
    beta: NDArray[np.float64] | None = None  # bias, shape (dim,); None where there is none
    gamma_sha256: str | None = None  # of the scale's bytes as the file stores them


@dataclass(frozen=True, slots=True)
class Reading:
    """All that one checkpoint yielded."""

    status: Status
    reason: str | None
    norm_kind: Kind | None  # of the main final norm; None where nothing was read
    norms: tuple[ReadNorm, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    integrity: tuple[str, ...] = ()
    file_count: int = 0
    checkpoint_bytes: int | None = None
    config: Mapping[str, object] | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What reading one model cost."""

    hub_requests: int = 0
    cdn_requests: int = 0
    bytes_read: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.hub_requests + other.hub_requests,
            self.cdn_requests + other.cdn_requests,
            self.bytes_read + other.bytes_read,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Audit:
    """One model's audit: what was asked for, what was concluded, what it cost."""

    listing: Listing
    reading: Reading
    cost: Cost = field(default_factory=Cost)
    shared_from: str | None = None
    audited_at: datetime | None = None  # when it ended; None: when it was stored
