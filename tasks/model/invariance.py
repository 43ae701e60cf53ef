"""Moving a head along the kernel direction, and what its logits say to it (maths.md, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from tasks.model.tables import Table, blocks

INVARIANCE_TOKENS = 64  # enough outputs for the figure: both of its norms are sums over all V logits of each
RANDOM_DIRECTIONS = 8  # in whose place u is put


def logit_invariance(
    outputs: torch.Tensor,
    head: Table,
    head_bias: torch.Tensor | None,
    u: torch.Tensor,
    beta: torch.Tensor | None,
    seed: int = 0,
) -> float | None:
    """Return how much the logits change under the move along u, divided by how much along a random direction.

    The move takes the head (W, b) to (W + t·a uᵀ, b - t (u·β) a), with t = ‖W‖_F/√V and a random unit a; a head without
    bias is given b = 0. Both heads are applied, in float64, by blocks of rows, and their logits subtracted; each block
    is asked for twice, since t is known once all were seen. What
    divides is the root mean square over 8 random unit directions r in place of u: there the change, t·a r·(y - β), is
    far above rounding and is computed as it stands.

    Args:
        outputs: y of the norm evaluated in float32, shape (n, d); INVARIANCE_TOKENS of them are enough.
        head: W, shape (V, d), of any floating type, on the outputs' device or another; a tensor, or what has its rows.
        head_bias: b, shape (V,), or None.
        u: kernel direction, shape (d,), of norm 1.
        beta: the norm's bias, shape (d,), or None.
        seed: of a and of the random directions.

    Returns:
        About 2e-7 for a LayerNorm, of order 1 for an RMSNorm; None where a figure is not finite or nothing changes.
    """
    y, u = outputs.detach().double(), u.detach().to(outputs.device, torch.float64)
    beta = torch.zeros_like(u) if beta is None else beta.detach().to(u)
    size = _frobenius(head) / math.sqrt(head.shape[0])
    change = 0.0
    for weight, bias, amounts in _head_blocks(head, head_bias, size, seed, y.device):
        logits = y @ weight.T + bias
        moved = y @ weight.addr(amounts, u).T + (bias - (u @ beta) * amounts)
        change += float(((moved - logits) ** 2).sum())
    along_random = (y - beta) @ _random_directions(len(u), seed).to(u).T
    reference = size**2 * float((along_random**2).sum()) / RANDOM_DIRECTIONS
    value = math.sqrt(change / reference) if reference > 0 else math.nan
    return value if math.isfinite(value) else None


def _random_directions(width: int, seed: int) -> torch.Tensor:
    """Return random unit vectors as rows, shape (8, d), float64, the same on every device."""
    random = torch.randn(RANDOM_DIRECTIONS, width, generator=_generator(seed), dtype=torch.float64)
    return random / random.norm(dim=1, keepdim=True)


def _head_blocks(
    head: Table, head_bias: torch.Tensor | None, size: float, seed: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield (W, b, t·a) by blocks of rows, float64, on the device; size is t."""
    amounts = torch.randn(head.shape[0], generator=_generator(seed + 1), dtype=torch.float64)
    amounts *= size / amounts.norm()
    bias = torch.zeros_like(amounts) if head_bias is None else head_bias.detach().double()
    for block in blocks(head.shape):
        yield head[block].detach().to(device).double(), bias[block].to(device), amounts[block].to(device)


def _frobenius(head: Table) -> float:
    norms = [float(torch.linalg.vector_norm(head[block].detach(), dtype=torch.float64)) for block in blocks(head.shape)]
    return math.hypot(*norms)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
