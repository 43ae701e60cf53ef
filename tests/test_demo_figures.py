"""Every figure of every demo model against an independent computation: other code, other formulas, the whole tensor."""

import asyncio
import math

import ml_dtypes
import numpy as np
import pytest
import safetensors

from deployments.demo.models import DEMO_TOKEN, demo_faults, demo_repos
from deployments.demo.standin import StandIn, Switches
from tasks.batch import audit_models
from tasks.core.reading import ReadOptions
from tasks.core.registry import load_registry
from tasks.hub import HubOptions, ListingQuery, list_models

FLOATS = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
LARGEST_READ_WHOLE = 200_000_000  # bytes; the 7B- and 70B-shaped files are sparse and not read whole


@pytest.fixture(scope="module")
def audits(models):
    """Audits of all demo models that have a main final norm, with the files they were read from."""
    repos = demo_repos(models)
    with StandIn(repos, token=DEMO_TOKEN, switches=Switches(faults=demo_faults())) as hub:
        options = HubOptions(endpoint=hub.endpoint, token=DEMO_TOKEN, retries=0)
        found = asyncio.run(_all(options))
    files = {repo.repo_id: repo.files for repo in repos}
    return [(audit, files[audit.listing.repo_id]) for audit in found if audit.reading.status == "ok"]


async def _all(options):
    listings = list(list_models(options, ListingQuery()))
    read = ReadOptions(registry=load_registry())
    return [audit async for audit in audit_models(listings, options, read, concurrency=8)]


def stored(files, path, name):
    """A tensor's values as the safetensors library itself reads them from the whole file."""
    content = files[path]
    if content.size > LARGEST_READ_WHOLE:
        return None
    tensors = dict(safetensors.deserialize(content.read(0, content.size)))
    entry = tensors[name]
    return np.frombuffer(entry["data"], FLOATS[entry["dtype"]]).astype(np.float64).ravel()


def independent(gamma, beta, kind, tau=1e-4):
    """maths.md, section 2, by way of extended precision and plain sums over coordinates."""
    wide = gamma.astype(np.longdouble)
    rms = math.sqrt(math.fsum(float(g) ** 2 for g in gamma) / gamma.size)
    dead = [i for i, g in enumerate(gamma) if abs(g) <= tau * rms]
    zeros = wide == 0
    u = zeros.astype(np.longdouble) if zeros.any() else 1 / wide
    u = u / np.sqrt(np.sum((u / np.abs(u).max()) ** 2)) / np.abs(u).max()
    return {
        "predicted_dead_dim": max(1, len(dead)) if kind == "layernorm" else len(dead),
        "dead_coordinate_count": len(dead),
        "participation_ratio": float(1 / np.sum(u**4)),
        "top_share": float(np.max(u**2)),
        "cos_uniform": float(abs(np.sum(u)) / np.sqrt(np.longdouble(gamma.size))),
        "condition_number": None if zeros.any() else float(np.max(np.abs(wide)) / np.min(np.abs(wide))),
        "u_dot_beta": float(np.sum(u * beta.astype(np.longdouble))) if beta is not None else 0.0,
    }


def test_every_figure_of_every_demo_model_agrees_to_1e9(audits):
    compared = 0
    for audit, files in audits:
        for read in audit.reading.norms:
            norm = read.norm
            if not norm.is_final or norm.scale_tensor is None or norm.kind not in ("layernorm", "rmsnorm"):
                continue
            weight = stored(files, norm.file, norm.scale_tensor)
            if weight is None or not np.isfinite(weight).all():
                continue
            gamma = weight + 1 if norm.parameterisation == "one_plus" else weight
            beta = stored(files, norm.file, norm.bias_tensor) if norm.bias_tensor else None
            np.testing.assert_array_equal(read.gamma, gamma)
            for name, expected in independent(gamma, beta, norm.kind).items():
                found = getattr(read.kernel, name)
                assert (found is None) == (expected is None), (audit.listing.repo_id, name)
                assert expected is None or found == pytest.approx(expected, rel=1e-9, abs=1e-12), (
                    audit.listing.repo_id,
                    name,
                )
            compared += 1
    assert compared >= 28


def test_the_trained_sentence_encoder_shows_what_the_mathematics_says_of_it(audits):
    by_name = {audit.listing.repo_id: audit for audit, _ in audits}
    audit = by_name.get("sentence-transformers/all-MiniLM-L6-v2")
    if audit is None:
        pytest.skip("the package with its weights is not installed")
    [main] = [read for read in audit.reading.norms if read.norm.is_main]
    assert (main.norm.kind, main.norm.parameterisation) == ("layernorm", "plain")
    assert main.norm.scale_tensor == "encoder.layer.5.output.LayerNorm.weight"
    assert main.kernel.predicted_dead_dim == main.kernel.dead_coordinate_count == 3
    assert main.kernel.dead_coordinates == (127, 223, 319)
    assert main.kernel.participation_ratio == pytest.approx(1.906, abs=5e-4)
    assert main.kernel.top_coordinate == 223
    assert audit.cost.bytes_read < 0.002 * audit.reading.checkpoint_bytes
