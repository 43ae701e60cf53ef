"""The store's tables as Arrow schemas; every column says its unit, its source and what it is.

Columns are only ever added, nullable. A column that `stays` in Parquet (vectors, compressed blobs) is not copied into
the database: its table's view joins it back. "section" in a source is a section of maths.md.
"""

from __future__ import annotations

from functools import cache

import pyarrow as pa

_TEXT = pa.string()
_INT = pa.int64()
_FLAG = pa.bool_()
_REAL = pa.float64()
_TIME = pa.timestamp("us", tz="UTC")
_INTS = pa.list_(pa.int64())
_TEXTS = pa.list_(pa.string())
_REALS = pa.list_(pa.float64())
_FLOATS = pa.list_(pa.float32())
_REPO_FILE = pa.struct([("path", _TEXT), ("size_bytes", _INT), ("sha256", _TEXT)])

_HUB = "Hub listing"
_AUDIT = "the audit"
_FILE = "checkpoint"
_NAMES = "tensor names, config and behaviour, section 6"
_KERNEL = "effective scale, section 2"
_PROBE = "probe, section 4"
_BLOCKS = "probe, section 5"


def _column(name: str, kind: pa.DataType, unit: str, source: str, says: str, stays: bool = False) -> pa.Field:
    facts = {"unit": unit, "source": source, "description": says}
    return pa.field(name, kind, metadata=facts | ({"stays": "parquet"} if stays else {}))


def _key(name: str, kind: pa.DataType, unit: str, source: str, says: str) -> pa.Field:
    return _column(name, kind, unit, source, says).with_nullable(False)


_REPO = _key("repo_id", _TEXT, "", _HUB, "owner and name of the repo; of a local folder its path as given")
_SHA = _column("sha", _TEXT, "", _HUB, "commit that was read; of a local folder a hash; null where none is known")
_METHOD = _key("method_version", _INT, "", _AUDIT, "version of what is concluded from what was read")
_NIGHT = _column("night", pa.date32(), "date", _AUDIT, "night that the part belongs to")
_AUDIT_ID = _column("audit_id", _TEXT, "", _AUDIT, "run that wrote the row")
_TOWER = _column("tower", _TEXT, "", _NAMES, "part of the model: text, vision, audio, encoder, decoder, …")

LISTINGS = pa.schema(
    [
        _NIGHT.with_nullable(False),
        _REPO,
        _SHA.with_metadata({"unit": "", "source": _HUB, "description": "commit of the main branch on that night"}),
        _column("author", _TEXT, "", _HUB, "owner of the repo"),
        _column("created_at", _TIME, "UTC", _HUB, "when the repo was created"),
        _column("last_modified", _TIME, "UTC", _HUB, "when the repo last changed"),
        _column("downloads", _INT, "downloads in 30 days", _HUB, "downloads of the last 30 days"),
        _column("likes", _INT, "likes", _HUB, "likes so far"),
        _column("library_name", _TEXT, "", _HUB, "library that the repo is for"),
        _column("pipeline_tag", _TEXT, "", _HUB, "task that the repo is for"),
        _column("tags", _TEXTS, "", _HUB, "all tags"),
        _column("gated", _TEXT, "", _HUB, "auto or manual; null where not gated"),
        _column("private", _FLAG, "", _HUB, "whether the repo is private; then it appears in nothing published"),
        _column("disabled", _FLAG, "", _HUB, "whether the Hub has disabled the repo"),
        _column("model_type", _TEXT, "", _HUB, "model_type of the config's digest"),
        _column("architectures", _TEXTS, "", _HUB, "architectures of the config's digest"),
        _column("license", _TEXT, "", _HUB, "declared licence"),
        _column("base_models", _TEXTS, "", _HUB, "declared base models"),
        _column("parameter_count", _INT, "parameters", _HUB, "parameters by the Hub's count"),
        _AUDIT_ID,
    ]
)

AUDITS = pa.schema(
    [
        _AUDIT_ID,
        _column("audited_at", _TIME, "UTC", _AUDIT, "when the audit of this repo ended"),
        _NIGHT,
        _REPO,
        _SHA,
        _key("read_version", _INT, "", _AUDIT, "version of what is read from a checkpoint"),
        _METHOD,
        _column("status", _TEXT, "", _AUDIT, "ok, or why there is no answer or an empty one"),
        _column("reason", _TEXT, "", _AUDIT, "the status in words; null where ok"),
        _column("norm_kind", _TEXT, "", _NAMES, "kind of the main final norm; none: the model has no norm"),
        _column("final_tensor", _TEXT, "", _NAMES, "scale of the main final norm; null where it has none"),
        _column("integrity", _TEXTS, "", _FILE, "verdicts on the checkpoint's integrity; empty where sound"),
        _column("tensors", pa.binary(), "", _FILE, "names, dtypes and shapes of all tensors, compressed", stays=True),
        _column(
            "config", pa.binary(), "", _FILE, "configuration that the kinds were decided with, compressed", stays=True
        ),
        _column("tensor_count", _INT, "tensors", _FILE, "tensors in the checkpoint"),
        _column("file_count", _INT, "files", _FILE, "safetensors files in the checkpoint"),
        _column("checkpoint_bytes", _INT, "bytes", _FILE, "size of the checkpoint's files together"),
        _column("bytes_read", _INT, "bytes", _AUDIT, "bytes received to audit it"),
        _column("hub_requests", _INT, "requests", _AUDIT, "requests to the endpoint's own origin"),
        _column("cdn_requests", _INT, "requests", _AUDIT, "requests to all other origins"),
        _column("seconds", _REAL, "s", _AUDIT, "wall time of this repo's audit"),
        _column("weights_sha256", _TEXT, "", _FILE, "identity of the weights: a hash over the files' hashes"),
        _column("shared_from", _TEXT, "", _AUDIT, "repo whose identical weights were read instead of these"),
    ]
)

NORMS = pa.schema(
    [
        _REPO,
        _SHA,
        _METHOD,
        _TOWER,
        _column("module", _TEXT, "", _NAMES, "name of the module in the checkpoint"),
        _column("layer", _INT, "", _NAMES, "index of its block from 0; null outside the blocks"),
        _column("site", _TEXT, "", _NAMES, "final, pre_attention, post_attention, pre_mlp, post_mlp, query, key, …"),
        _column("is_final", _FLAG, "", _NAMES, "whether it is the last norm of its tower's trunk"),
        _column("is_main", _FLAG, "", _NAMES, "whether it is the final norm of the tower whose output users read"),
        _column("scale_tensor", _TEXT, "", _FILE, "name of the scale; null without affine"),
        _column("bias_tensor", _TEXT, "", _FILE, "name of the bias; null where there is none"),
        _column("file", _TEXT, "", _FILE, "file that holds the scale"),
        _column("dim", _INT, "coordinates", _FILE, "length d of the scale"),
        _column("dtype", _TEXT, "", _FILE, "dtype of the scale as stored"),
        _column("kind", _TEXT, "", _NAMES, "layernorm, rmsnorm, batchnorm, groupnorm or unknown"),
        _column("parameterisation", _TEXT, "", _NAMES, "plain (γ = w) or one_plus (γ = 1 + w); null without affine"),
        _column("eps", _REAL, "", "config", "the norm's epsilon"),
        _column("confidence", _REAL, "0 to 1", _NAMES, "confidence that the kind is right"),
        _column("decided_by", _TEXT, "", _NAMES, "source of the evidence that settled the kind"),
        _column("gamma_min", _REAL, "", _KERNEL, "smallest γ"),
        _column("gamma_max", _REAL, "", _KERNEL, "largest γ"),
        _column("gamma_mean", _REAL, "", _KERNEL, "mean of γ"),
        _column("gamma_std", _REAL, "", _KERNEL, "standard deviation of γ"),
        _column("gamma_rms", _REAL, "", _KERNEL, "root mean square of γ"),
        _column("zero_count", _INT, "coordinates", _KERNEL, "γ that are exactly 0"),
        _column("negative_count", _INT, "coordinates", _KERNEL, "γ below 0"),
        _column("dead_coordinate_count", _INT, "coordinates", _KERNEL, "γ with |γ| ≤ τ · rms(γ)"),
        _column("nonfinite_count", _INT, "coordinates", _KERNEL, "γ that are NaN or infinite"),
        _NIGHT,
        _AUDIT_ID,
    ]
)

KERNELS = pa.schema(
    [
        _REPO,
        _SHA,
        _METHOD,
        _TOWER,
        _column("dim", _INT, "coordinates", _FILE, "length d of the scale"),
        _column("gamma", _FLOATS, "", _FILE, "effective scale γ, shape (dim,); null entries exceed FLOAT", stays=True),
        _column("beta", _FLOATS, "", _FILE, "bias β, shape (dim,); null where there is none", stays=True),
        _column("predicted_dead_dim", _INT, "directions", _KERNEL, "dead directions that the scale predicts"),
        _column("dead_coordinate_count", _INT, "coordinates", _KERNEL, "γ with |γ| ≤ τ · rms(γ)"),
        _column("dead_coordinates", _INTS, "", _KERNEL, "up to 64 of these coordinates"),
        _column("dead_tau", _REAL, "of rms(γ)", _KERNEL, "threshold τ for a near-dead coordinate"),
        _column("participation_ratio", _REAL, "coordinates", _KERNEL, "PR = 1/Σuᵢ⁴ of the kernel direction u, 1 to d"),
        _column("participation_fraction", _REAL, "0 to 1", _KERNEL, "PR/d"),
        _column("top_share", _REAL, "0 to 1", _KERNEL, "largest uᵢ²"),
        _column("top_coordinate", _INT, "", _KERNEL, "coordinate with the largest uᵢ², from 0"),
        _column("cos_uniform", _REAL, "0 to 1", _KERNEL, "|cos(u, 1/√d)|"),
        _column("condition_number", _REAL, "", _KERNEL, "max|γ|/min|γ|; null with a zero"),
        _column("u_dot_beta", _REAL, "", _KERNEL, "u·β, the constant value of u·y"),
        _column("kernel_degenerate", _FLAG, "", _KERNEL, "whether some γ is exactly 0, so that u is not unique"),
        _column("gamma_sha256", _TEXT, "", _FILE, "hash of the scale's bytes as stored"),
        _NIGHT,
        _AUDIT_ID,
    ]
)

EVIDENCE = pa.schema(
    [
        _REPO,
        _SHA,
        _METHOD,
        _column("module", _TEXT, "", _NAMES, "module of the norm that it bears on"),
        _column("scale_tensor", _TEXT, "", _FILE, "scale of the norm that it bears on; null without affine"),
        _column("source", _TEXT, "", _NAMES, "tensors, config, behaviour, weights, …"),
        _column("says", _TEXT, "", _NAMES, "what it speaks for: a kind, a parameterisation or a site"),
        _column("strength", _REAL, "0 to 1", _NAMES, "0 says nothing, 1 settles it"),
        _column("detail", _TEXT, "", _NAMES, "the fact in words"),
        _NIGHT,
        _AUDIT_ID,
    ]
)

PROBES = pa.schema(
    [
        _REPO,
        _SHA,
        _METHOD,
        _TOWER,
        _column("final_tensor", _TEXT, "", _PROBE, "scale of the probed norm; null without affine"),
        _key("weights", _TEXT, "", _PROBE, "random (initialisation) or trained"),
        _column("seed", _INT, "", _PROBE, "seed of weights and inputs"),
        _column("inputs", _TEXT, "", _PROBE, "kind of input: text, images, audio or random"),
        _column("n_tokens", _INT, "tokens", _PROBE, "tokens measured, padding excluded"),
        _column("dtype", _TEXT, "", _PROBE, "dtype of the model's body"),
        _column("device", _TEXT, "", _PROBE, "device of the forward pass"),
        _column("torch_version", _TEXT, "", _PROBE, "version of torch"),
        _column("transformers_version", _TEXT, "", _PROBE, "version of transformers"),
        _column("alignment", _REAL, "0 to 1", _PROBE, "|⟨u, v_d⟩|, v_d the direction of least variance"),
        _column("subspace_alignment", _REAL, "0 to 1", _PROBE, "‖P_dead u‖"),
        _column("subspace_overlap", _REAL, "0 to 1", _PROBE, "‖P_dead B‖²_F / dim B, B the predicted dead subspace"),
        _column("lambda_u_rel", _REAL, "of the mean eigenvalue", _PROBE, "variance along u, norm in float64"),
        _column("lambda_u_rel_float32", _REAL, "of the mean eigenvalue", _PROBE, "variance along u, norm in float32"),
        _column("mean_share", _REAL, "", _PROBE, "share of the norm's output, before the affine, along 1"),
        _column("verdict", _TEXT, "", _PROBE, "whether the data show the dead direction: present, absent or unclear"),
        _column("dead_counts", pa.map_(_TEXT, _INT), "directions", _PROBE, "eigenvalues below each threshold"),
        _column("spectrum", _REALS, "of the mean eigenvalue", _PROBE, "all eigenvalues, largest first", stays=True),
        _column("block_names", _TEXTS, "", _BLOCKS, "residual streams measured, embeddings first", stays=True),
        _column("block_sigma_min", _REALS, "", _BLOCKS, "least singular value of each stream", stays=True),
        _column("block_sigma_max", _REALS, "", _BLOCKS, "largest singular value of each stream", stays=True),
        _column("block_sigma_ratio", _REALS, "", _BLOCKS, "ratio of σ_min to the stream before", stays=True),
        _column("preserved", _FLAG, "", _BLOCKS, "whether no block from 1 on shrinks σ_min below a tenth"),
        _column("logit_invariance", _REAL, "", "probe, section 3", "change of logits along u, of that along random r"),
        _column("log10_deepening", _REAL, "decades", _PROBE, "log10 of λ_u in float32, random over trained"),
        _column("seconds_load", _REAL, "s", _PROBE, "wall time to load or build the model"),
        _column("seconds_forward", _REAL, "s", _PROBE, "wall time of the forward passes"),
        _column("seconds_linalg", _REAL, "s", _PROBE, "wall time of the linear algebra"),
        _column(
            "peak_memory_bytes",
            _INT,
            "bytes",
            _PROBE,
            "most that the probe held at once: on a GPU of its memory; else resident, beyond what the process held "
            "when its libraries and the model's class were imported",
        ),
        _column("status", _TEXT, "", _PROBE, "ok, or why there is no answer"),
        _column("reason", _TEXT, "", _PROBE, "the status, or a null figure, in words"),
        _column("probed_at", _TIME, "UTC", _PROBE, "when the probe ended"),
        _NIGHT,
        _AUDIT_ID,
    ]
)

TABLES = {
    "listings": LISTINGS,
    "norms": NORMS,
    "kernels": KERNELS,
    "evidence": EVIDENCE,
    "probes": PROBES,
    "audits": AUDITS,  # last: its part is the batch's marker
}

SAYS = {
    "listings": "One row per repo and night: the repo as the Hub listed it.",
    "audits": "One row per repo and revision: how its audit went and what it cost.",
    "norms": "One row per normalisation layer, placed and classified.",
    "kernels": "One row per final norm: its scale and the figures of its kernel direction.",
    "evidence": "One row per fact that bore on a norm's kind.",
    "probes": "One row per forward-pass probe of a model's main final norm.",
}

KEYS = {
    "listings": ("night", "repo_id"),
    "audits": ("repo_id", "sha", "read_version"),
    "norms": ("repo_id", "sha", "method_version", "tower", "module", "scale_tensor"),
    "kernels": ("repo_id", "sha", "method_version", "tower"),
    "evidence": ("repo_id", "sha", "method_version", "module", "scale_tensor", "source", "says", "detail"),
    "probes": ("repo_id", "sha", "method_version", "weights", "seed", "inputs", "n_tokens", "dtype", "device"),
}

CANDIDATES = pa.schema(
    [
        _REPO,
        _SHA,
        _column("files", pa.list_(_REPO_FILE), "", _HUB, "the repo's files as the listing named them"),
        _column("config", _TEXT, "JSON", _HUB, "the config's digest"),
        _column("private", _FLAG, "", _HUB, "whether the repo is private"),
        _column("gated", _TEXT, "", _HUB, "auto or manual; null where not gated"),
        _column("parameter_count", _INT, "parameters", _HUB, "parameters by the Hub's count"),
        _column("is_head", _FLAG, "", _HUB, "whether sha is what the main branch points to; null in older plans"),
        _column("status", _TEXT, "", _HUB, "what the listing itself answers; null where the repo has to be read"),
        _column("reason", _TEXT, "", _HUB, "the status in words"),
    ]
)

PLAN = pa.schema(
    [
        *CANDIDATES,
        _column("why", _TEXT, "", "the plan", "new, changed or retry"),
        _key("batch", _INT, "", "the plan", "batch that audits the repo, from 0"),
    ]
)


def described(field: pa.Field) -> dict[str, str]:
    """Return a column's unit, source and description."""
    return {key.decode(): value.decode() for key, value in field.metadata.items()}


def comment(field: pa.Field) -> str:
    """Return a column's comment as the database shows it: what it is, then unit and source."""
    facts = described(field)
    unit = f"unit: {facts['unit']}; " if facts["unit"] else ""
    return f"{facts['description']} [{unit}source: {facts['source']}]"


@cache
def stays_in_parquet(table: str) -> tuple[str, ...]:
    """Return the columns of a table (vectors and blobs) that the database leaves in Parquet."""
    return tuple(field.name for field in TABLES[table] if "stays" in described(field))
