"""One probe: build a model, run it, and return the row of table probes (maths.md, sections 3 to 5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.core.errors import shown
from tasks.model.answers import Kind, Probed, Say, Spent, answered
from tasks.model.build import Blueprint, blueprint, skeleton
from tasks.model.drawn import RandomWeights
from tasks.model.faults import NoProbe, NotAStack, NotFinite
from tasks.model.fill import Part, Parts, TimedWeights, Weights, parts_of, tensors_of
from tasks.model.head import find_head
from tasks.model.inputs import Inputs, Wish, inputs_for
from tasks.model.invariance import logit_invariance
from tasks.model.jobs import Job
from tasks.model.memory import Peak, free_bytes, resident_at_start
from tasks.model.norm import FinalNorm, final_norm
from tasks.model.observe import EMBEDDINGS, Observer
from tasks.model.rows import direction_of, figures_of
from tasks.model.stack import run_blocks
from tasks.model.stored import Source, StoredWeights
from tasks.model.structure import Sight, look
from tasks.model.tables import Table, names_of
from tasks.model.whole import Setting, run_whole

WIDTHS_OF_TOKENS = 4  # N ≥ 4d: of fewer tokens the small singular values say more of N than of the model
BATCH_TOKENS: Mapping[str, int] = {"cpu": 512, "cuda": 16_384}  # keep two cores, or a GPU, busy
WHOLE_SHARE = 0.8  # of the memory there is that a whole model may take, with its activations
FACTOR_BYTES = 24  # per d² and stream: a triangular factor in float64, and 2d rows in the body's type that wait
LISTED = 3  # names in a message


@dataclass(frozen=True)
class Checkpoint:
    """What a probe reads.

    Attributes:
        config: the config.json.
        tokenizer: folder of the tokenizer's files; None: there are none.
        source: opens the trained tensors; it is called for trained weights alone.
        sha: revision that is read, where only the Hub knows it.
    """

    config: Mapping[str, Any]
    tokenizer: Path | None
    source: Callable[[], Source]
    sha: str | None = None


def probe(job: Job, kind: Kind, checkpoint: Checkpoint, say: Say) -> Probed:
    """Probe a model with one kind of weights.

    Args:
        job: what is asked.
        kind: of weights.
        checkpoint: what is read.
        say: is told of the progress.

    Raises:
        NoProbe: there is no answer; its status and reason say why.
        Exception: out of memory.
    """
    peak, started = Peak(torch.device(job.device)), time.perf_counter()
    say("building the model")
    run = prepared(job, kind, checkpoint, say)
    run.weights.seconds += time.perf_counter() - started
    try:
        run.observe()
        invariance = run.logit_invariance()
    except NotFinite as error:
        raise run.explained(error) from error
    say("linear algebra")
    figures_started = time.perf_counter()
    figures, remarks = figures_of(run.observer, job.dtype)
    figures_s = time.perf_counter() - figures_started
    load_s, stream_s = run.weights.seconds, run.observer.seconds
    whole_s = time.perf_counter() - started
    spent = Spent(load_s, max(0.0, whole_s - figures_s - load_s - stream_s), figures_s + stream_s, peak.bytes)
    columns = {**run.columns(), **figures, "logit_invariance": invariance}
    row = answered(job, kind, columns, [*run.remarks, *remarks], spent)
    return Probed(row, tuple(run.observer.norm.gamma.tolist()))


@dataclass
class Run:
    """The state of one probe.

    Attributes:
        job: what is asked.
        model: the skeleton; filled and emptied as it is run.
        sight: where it is looked at.
        weights: give it values, and count the seconds.
        parts: of the model.
        inputs: what it is run on.
        setting: how.
        tokens: N.
        remarks: what is to be said of the answer.
        head: path of the linear head, once it is found.
    """

    job: Job
    model: Any
    sight: Sight
    weights: TimedWeights
    parts: Parts
    inputs: Inputs
    setting: Setting
    tokens: int
    remarks: list[str] = field(default_factory=list)
    head: str | None = None

    def __post_init__(self) -> None:
        self.observer = self._new_observer()

    def observe(self) -> None:
        """Run the model, at once or block by block, until enough tokens have been seen."""
        why = self._why_blocks()
        if why is not None:
            try:
                self._observe_blocks()
                self.remarks.append(f"block by block: {why}")
                return
            except NotAStack as error:
                self.remarks.append(f"not block by block, but at once: {error}")
                self._drop_all()
        for part in self.parts:
            self.weights.fill(part)
        run_whole(self.model, self.sight, self.inputs, self.observer, self.setting)
        self._find_head()

    def logit_invariance(self) -> float | None:
        """Return the figure of section 3, or None where no linear head makes logits of the norm's output."""
        if self.head is None:
            self.remarks.append("no logit_invariance: no linear head reads the norm's output")
            return None
        part, weight = self._filled_head(self.head)
        head: nn.Linear = self.model.get_submodule(self.head)
        norm, u = self.observer.norm, torch.from_numpy(direction_of(self.observer))
        found = logit_invariance(self.observer.sample, weight, head.bias, u, norm.beta, self.job.seed)
        self.weights.drop(part)
        return found

    def _filled_head(self, path: str) -> tuple[Part, Table]:
        """Return the part that holds the head, with values, and the head's weight, whose rows may not be there yet."""
        part = self.parts.head if self.parts.head.modules else self.parts.trunk
        weight: nn.Parameter = self.model.get_submodule(path).weight
        if not weight.is_meta:
            return part, weight
        table = self.weights.table(f"{path}.weight")
        if table is not None:
            part = replace(part, left_out=frozenset(names_of(self.model, weight)))
        self.weights.fill(part)
        return part, self.model.get_submodule(path).weight if table is None else table

    def _observe_blocks(self) -> None:
        run_blocks(
            self.model,
            self.sight,
            self.weights,
            self.parts,
            self.inputs,
            self.observer,
            self.setting,
            self._find_head,
        )

    def _find_head(self) -> None:
        kwargs = self.inputs.batch(0, 1, self.setting.device, self.setting.dtype)
        self.head = find_head(self.model, self.sight, kwargs, self.sight.width)

    def columns(self) -> dict[str, Any]:
        """Return the columns that say what was probed."""
        scale = self.sight.scale
        if self.weights.missing:
            self.remarks.append(f"not in the checkpoint: {_some(sorted(self.weights.missing))}")
        return {
            "tower": self.sight.tower,
            "final_tensor": self.weights.stored_name(scale) if scale else None,
            "inputs": self.inputs.kind,
            "n_tokens": self.observer.count,
        }

    def explained(self, error: NotFinite) -> NoProbe:
        """Return what NaN or Inf on the way amounts to: what is missing in the checkpoint, or broken in it."""
        where = f"{shown(self.job.repo_id)}: {error}"
        if self.weights.missing:
            missing = _some(sorted(self.weights.missing))
            return NoProbe("bad_file", f"{where}: the config asks for tensors that the checkpoint lacks: {missing}")
        values = [(path, value) for part in self.parts for path, _, _, value in tensors_of(self.model, part)]
        there = [(path, value) for path, value in values if isinstance(value, nn.Parameter) and not value.is_meta]
        broken = [path for path, value in there if not bool(torch.isfinite(value).all())]
        if broken:
            return NoProbe("not_finite", f"{where}: the weights hold NaN or Inf: {_some(broken)}")
        if any(value.is_meta for _, value in values):
            told = f"the weights before hold them, or {self.job.dtype} is too narrow; --way whole tells which"
        else:
            told = f"the weights are finite; {self.job.dtype} may be too narrow for them"
        return NoProbe("not_finite", f"{where}: {told}")

    def _new_observer(self) -> Observer:
        names = (EMBEDDINGS, *self.sight.blocks) if self.sight.blocks else ()
        return Observer(self.sight.width, self.tokens, names, self._final_norm)

    def _final_norm(self) -> FinalNorm:
        sight = self.sight
        exact = [self.weights.exact(name) if name else None for name in (sight.scale, sight.bias)]
        module = self.model.get_submodule(sight.norm)
        return final_norm(module, sight.width, (sight.kind, sight.parameterisation), *exact)

    def _why_blocks(self) -> str | None:
        """Return why the model is to be run block by block; None where it is run at once."""
        if self.job.way != "auto":
            return "as asked" if self.job.way == "blocks" else None
        there = self.job.limit_bytes or free_bytes(self.setting.device)
        needed = _model_bytes(self.model, self.parts) + FACTOR_BYTES * self.sight.width**2 * (
            len(self.parts.blocks) + 2
        )
        if there is None or needed <= WHOLE_SHARE * there:
            return None
        return f"the whole model takes {needed / 1e9:.1f} GB, there are {there / 1e9:.1f} GB"

    def _drop_all(self) -> None:
        for part in self.parts:
            self.weights.drop(part)
        self.observer = self._new_observer()


def prepared(job: Job, kind: Kind, checkpoint: Checkpoint, say: Say) -> Run:
    """Return a probe that is ready to run: the model built without values, what to look at, what to run it on.

    Raises:
        NoProbe: as `probe` does.
    """
    device, dtype = torch.device(job.device), getattr(torch, job.dtype)
    plan = blueprint(checkpoint.config, job.repo_id)
    resident_at_start()
    model = skeleton(plan, dtype)
    sight = look(plan, model)
    tokens = job.tokens or WIDTHS_OF_TOKENS * sight.width
    wish = Wish(job.inputs, tokens, job.seed, Path(job.data) if job.data else None, checkpoint.tokenizer, job.repo_id)
    inputs = inputs_for(model.get_submodule(sight.runner), wish)
    setting = Setting(device, dtype, job.batch_tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"]), say)
    return Run(
        job,
        model,
        sight,
        TimedWeights(_weights(kind, plan, model, sight.runner, job, checkpoint)),
        parts_of(model, sight.blocks, sight.runner),
        inputs,
        setting,
        tokens,
        [inputs.remark] if inputs.remark else [],
    )


def _weights(kind: Kind, plan: Blueprint, model: Any, runner: str, job: Job, checkpoint: Checkpoint) -> Weights:
    device = torch.device(job.device)
    if kind == "random":
        return RandomWeights(plan, model, runner, device, job.seed)
    quantised = checkpoint.config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise NoProbe("unsupported", f"{shown(job.repo_id)}: its weights are quantised ({shown(method)}); not widened")
    return StoredWeights(plan, model, device, checkpoint.source())


def _model_bytes(model: nn.Module, parts: Parts) -> int:
    sizes = {id(value): value.nbytes for part in parts for _, _, _, value in tensors_of(model, part)}
    return sum(sizes.values())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(shown(name) for name in names[:LISTED]) + more
