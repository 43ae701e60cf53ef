"""From a config.json to a model of transformers without values: native classes alone, no code of the repo's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tasks.core.errors import shown
from tasks.model.faults import NoProbe, in_words

# where a config names no class, the first of these tasks that its model_type has: a head tells more than none
TASKS = (
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)
ENCODER_DECODER_TASKS = (
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)


@dataclass(frozen=True)
class Blueprint:
    """A class, its config, and the config as the file has it.

    Attributes:
        cls: one of transformers' model classes.
        config: of the class's own config class.
        said: the config.json.
    """

    cls: Any
    config: Any
    said: Mapping[str, Any]


def blueprint(said: Mapping[str, Any], called: str) -> Blueprint:
    """Return the class and config that a config.json asks for.

    Args:
        said: the config.json.
        called: the model's name, for messages.

    Raises:
        NoProbe: transformers has no code of its own for it, or refuses the config.
    """
    from transformers import CONFIG_MAPPING, __version__

    model_type = said.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        own = "; its own code (auto_map) is never run" if said.get("auto_map") else ""
        known = f"transformers {__version__} has no model_type {shown(model_type)!r}"
        raise NoProbe("unsupported", f"{shown(called)}: {known}{own}; a newer transformers may")
    wanted = {key: value for key, value in said.items() if key not in ("quantization_config", "auto_map")}
    try:
        config = CONFIG_MAPPING[model_type].from_dict(wanted)
    except Exception as error:  # whatever a config class raises on values that do not go together
        raise NoProbe("bad_file", f"{shown(called)}/config.json: {in_words(error)}") from error
    return Blueprint(_class_of(said, config, called), config, said)


def skeleton(plan: Blueprint, dtype: torch.dtype) -> Any:
    """Return the model with parameters of this dtype that have shapes and no values.

    Raises:
        NoProbe: the class cannot be built as the config says.
    """
    from transformers.initialization import meta_device_safe_creation_ops

    try:
        with _default_dtype(dtype), torch.device("meta"), meta_device_safe_creation_ops():
            return plan.cls(plan.config).eval()
    except Exception as error:  # whatever a class raises on sizes that do not go together
        raise NoProbe("bad_file", f"{plan.cls.__name__} cannot be built from config.json: {in_words(error)}") from error


def constructed(plan: Blueprint, dtype: torch.dtype, seed: int) -> nn.Module:
    """Return the model as its own constructor makes it, values and all, on the CPU."""
    with torch.random.fork_rng(devices=[]), _default_dtype(dtype):
        torch.manual_seed(seed)
        model: nn.Module = plan.cls(plan.config).eval()
    return model


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _class_of(said: Mapping[str, Any], config: Any, called: str) -> Any:
    """Return the class that `architectures` names if transformers has it for this config, else the type's usual one."""
    import transformers
    from transformers.models.auto import modeling_auto

    named = said.get("architectures")
    tasks = ENCODER_DECODER_TASKS if getattr(config, "is_encoder_decoder", False) else TASKS
    names = (getattr(modeling_auto, task).get(config.model_type) for task in tasks)
    usual = (name if isinstance(name, str) else name[0] for name in names if name)
    for name in (*(named if isinstance(named, list) else ()), *usual):
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) and _fits(found, config):
            return found
    raise NoProbe("unsupported", f"{shown(called)}: transformers has no model class for {shown(config.model_type)!r}")


def _fits(cls: Any, config: Any) -> bool:
    return cls.config_class is not None and isinstance(config, cls.config_class)
