"""The linear head that turns the final norm's output into logits, found by watching which layer is given it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tasks.model.observe import first_tensor
from tasks.model.structure import Sight
from tasks.model.whole import is_out_of_memory

FEW_TOKENS = 8  # enough to recognise the norm's output
SAME_COSINE = 1 - 1e-4  # bfloat16 rounds by 2⁻⁸, which costs a cosine 1e-5


@dataclass
class _Watch:
    """What one forward pass has shown so far."""

    outputs: Tensor | None = None  # of the norm
    readers: list[tuple[str, int]] = field(default_factory=list)  # linear layers that are given it: path, outputs

    def norm_ran(self, module: nn.Module, args: Any, output: Any) -> None:
        self.outputs = output[0] if isinstance(output, tuple) else output

    def linear_runs(self, path: str) -> Callable[[nn.Linear, Any, Any], None]:
        def hook(module: nn.Linear, args: Any, kwargs: Any) -> None:
            if self.outputs is not None and _are_rows_of(first_tensor(args, kwargs), self.outputs):
                self.readers.append((path, module.out_features))

        return hook


def find_head(model: Any, sight: Sight, kwargs: dict[str, Any], width: int) -> str | None:
    """Return the path of the linear layer that makes logits of the final norm's output, perhaps scaled, or None.

    Args:
        model: with values for all that it runs; the head may lack them.
        sight: where the norm is.
        kwargs: arguments of a forward pass of the runner.
        width: d.
    """
    watch = _Watch()
    end = sight.blocks[-1] if sight.last_norms else sight.norm  # the blocks may be stood in for
    handles: list[Any] = [model.get_submodule(end).register_forward_hook(watch.norm_ran)]
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.in_features == width:
            handles.append(module.register_forward_pre_hook(watch.linear_runs(path), with_kwargs=True))
    short = {name: value[:, :FEW_TOKENS] if name.endswith("input_ids") else value for name, value in kwargs.items()}
    try:
        with torch.no_grad():
            logits = getattr(model(**short), "logits", None)
    except Exception as error:  # whatever a head raises that wants more than the trunk: pictures beside text, labels
        if is_out_of_memory(error):
            raise
        return _meant(model, watch)  # or its head has no values yet
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor):
        return None  # a model without a head
    return next((path for path, wide in reversed(watch.readers) if wide == logits.shape[-1]), None)


def _meant(model: Any, watch: _Watch) -> str | None:
    """Return the layer given the norm's output that transformers takes for the head, or that has no values yet."""
    head = model.get_output_embeddings()
    layers = ((path, model.get_submodule(path)) for path, _ in reversed(watch.readers))
    return next((path for path, layer in layers if layer is head or (head is None and layer.weight.is_meta)), None)


def _are_rows_of(given: Tensor, outputs: Tensor) -> bool:
    """Return whether a layer is given rows of the norm's outputs, or multiples of them."""
    if given.shape[-1] != outputs.shape[-1]:
        return False
    rows, known = (
        nn.functional.normalize(values.reshape(-1, values.shape[-1]).double()) for values in (given, outputs)
    )
    return bool(((rows @ known.T).amax(dim=1) >= SAME_COSINE).all())
