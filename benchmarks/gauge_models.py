"""Small character models for the calibration of the gauge: bias-free LayerNorm or RMSNorm, else alike.

Their tensors have Llama's names, so that the benchmark finds the writing matrices as the audit does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.demo.training import training_text

DIM, LAYERS, HEADS = 64, 3, 4
BATCH, CONTEXT = 16, 64  # sequences in a step, characters in a sequence
WARMUP_STEPS = 30  # without them post-norm models do not train
LEARNING_RATE = {"adamw": 3e-3, "sgd": 0.2}  # the largest at which all cells of the grid train
DECAY = {"adamw": 0.1, "sgd": 1e-3}  # what the field uses with either, where it uses any
MOMENTUM = 0.9
NARROW = 0.02  # standard deviation that most language models begin with; PyTorch's own is 0.07 at this width


@dataclass(frozen=True)
class Cell:
    """One model of the grid."""

    norm: Literal["layernorm", "rmsnorm"]
    place: Literal["pre", "post"]
    tied: bool
    decay: bool
    optimizer: Literal["adamw", "sgd"]
    init: Literal["narrow", "torch"]
    seed: int

    @property
    def name(self) -> str:
        """The cell without its kind and seed."""
        tied = "tied" if self.tied else "untied"
        return f"{self.place:4} {self.optimizer:5} {self.init:6} {tied:6} {'wd' if self.decay else '-':2}"


def grid() -> Iterator[Cell]:
    """Yield every cell; LayerNorm and RMSNorm begin with the same weights, the cells with weights of their own."""
    axes = itertools.product(("pre", "post"), (True, False), (False, True), ("adamw", "sgd"), ("narrow", "torch"))
    for seed, (place, tied, decay, optimizer, init) in enumerate(axes):
        for norm in ("layernorm", "rmsnorm"):
            yield Cell(norm, place, tied, decay, optimizer, init, seed)  # type: ignore[arg-type]


class Norm(nn.Module):
    """LayerNorm or RMSNorm with a scale and no bias."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))
        self.centres = kind == "layernorm"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, shape (…, DIM)."""
        if self.centres:
            return functional.layer_norm(x, (DIM,), self.weight)
        return functional.rms_norm(x, (DIM,), self.weight, 1e-5)


class Attention(nn.Module):
    """Causal attention over DIM / HEADS dimensions a head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(DIM, 3 * DIM, bias=False)
        self.o_proj = nn.Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over x, shape (batch, length, DIM)."""
        heads = self.qkv_proj(x).unflatten(-1, (3, HEADS, DIM // HEADS)).movedim(2, 0).transpose(-2, -3)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.o_proj(mixed.transpose(-2, -3).flatten(-2))


class Perceptron(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Linear(DIM, 4 * DIM, bias=False)
        self.down_proj = nn.Linear(4 * DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (…, DIM)."""
        return self.down_proj(functional.gelu(self.up_proj(x)))


class Block(nn.Module):
    """Attention and perceptron, each normed before it (pre) or after it has been added (post)."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), Perceptron()
        self.input_layernorm, self.post_attention_layernorm = Norm(cell.norm), Norm(cell.norm)
        self.is_pre = cell.place == "pre"

    def forward(self, x: Tensor) -> Tensor:
        """Pass the stream x, shape (batch, length, DIM), on."""
        sublayers = ((self.input_layernorm, self.self_attn), (self.post_attention_layernorm, self.mlp))
        for norm, sublayer in sublayers:
            x = x + sublayer(norm(x)) if self.is_pre else norm(x + sublayer(x))
        return x


class CharacterModel(nn.Module):
    """A decoder that predicts the next character."""

    def __init__(self, cell: Cell, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, DIM)
        self.embed_positions = nn.Embedding(CONTEXT, DIM)
        self.layers = nn.ModuleList(Block(cell) for _ in range(LAYERS))
        self.norm = Norm(cell.norm)  # of a post-norm model the norm after the embeddings
        self.lm_head = nn.Linear(DIM, vocabulary, bias=False)
        self.is_pre = cell.place == "pre"
        for table in (self.embed_tokens, self.embed_positions):
            nn.init.normal_(table.weight, std=NARROW)
        if cell.init == "narrow":
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=NARROW)
        if cell.tied:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits, shape (batch, length, vocabulary), for tokens of shape (batch, length)."""
        x = self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]]
        x = x if self.is_pre else self.norm(x)
        for block in self.layers:
            x = block(x)
        return self.lm_head(self.norm(x) if self.is_pre else x)


def train(cell: Cell, stops: tuple[int, ...]) -> Iterator[tuple[int, float, dict[str, Any]]]:
    """Train a cell's model; yield (step, loss of the last batch in nats, its tensors) at every stop."""
    torch.manual_seed(cell.seed)
    tokens, vocabulary = text_tokens()
    model = CharacterModel(cell, vocabulary)
    optimizer = optimizer_of(cell, model)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS))
    loss = torch.tensor(float("nan"))
    for step in range(max(stops) + 1):
        if step in stops:
            yield step, float(loss.detach()), {name: value.numpy() for name, value in model.state_dict().items()}
        starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH, 1))
        batch = tokens[starts + torch.arange(CONTEXT + 1)]
        loss = functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warmup.step()


def optimizer_of(cell: Cell, model: nn.Module) -> torch.optim.Optimizer:
    """Return the cell's optimizer; scales do not decay, as is the custom."""
    decay = DECAY[cell.optimizer] if cell.decay else 0.0
    matrices = [value for value in model.parameters() if value.ndim > 1]
    scales = [value for value in model.parameters() if value.ndim == 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": scales, "weight_decay": 0.0}]
    if cell.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=LEARNING_RATE["sgd"], momentum=MOMENTUM)
    return torch.optim.AdamW(groups, lr=LEARNING_RATE["adamw"])


def text_tokens() -> tuple[Tensor, int]:
    """Return Python's help texts as numbers, one a character, and how many characters there are."""
    text = training_text()
    alphabet = sorted({*text})
    numbers = {character: number for number, character in enumerate(alphabet)}
    return torch.tensor([numbers[character] for character in text]), len(alphabet)
