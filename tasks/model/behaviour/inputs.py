"""Random inputs for a model whose class alone is known: what its forward takes, by the names of its parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

TOKENS = 8
SAMPLES = 8_000  # half a second of sound
PATCHES = 16
MAX_SIDE = 1_024  # pixels; a larger image costs memory and tells no more
MAX_POSITIONS = 1_500  # of sound that a model asks for exactly (Whisper); longer limits are only limits
FRAMES = 200
VARIANTS = 8  # shapes that any one input is known in
TEXT = ("input_ids", "decoder_input_ids", "attention_mask", "bbox")
# inputs that are always offered where a forward takes them
OFFERED = re.compile(
    r"(decoder_)?input_(ids|features|values)$|pixel_values(_videos)?$|bbox$|audio_codes$|grid_thw$|timesteps$"
    r"|inputs$|flattened_patches$|spatial_shapes$|visual_(feats|pos)$|aspect_ratio_ids$|lang_ids$|pixel_attention_mask$"
    r"|past_(values|time_features|observed_mask)$|future_(values|time_features)$|(states|actions|rewards|returns_to_go)$"
)
BANDS = (
    "num_mel_bins",
    "feature_projection_input_dim",
    "feature_size",
    "input_feat_per_channel",
    "input_dim",
    "feature_dim",
)
HIDDEN = ("hidden_size", "d_model", "embed_dim", "n_embd", "dim")
# fields for the widths of inputs that are not as wide as the model
WIDTHS = {
    "states": ("state_dim",),
    "actions": ("act_dim",),
    "encoder_hidden_states": ("encoder_hidden_size", "cross_attention_hidden_size"),
    "last_hidden_state": ("input_size",),
}


def sample_inputs(model: Any) -> Iterator[dict[str, Any]]:
    """Yield inputs that a model's forward may take, the likeliest first."""
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    fixed = {"use_cache": False} if "use_cache" in parameters else {}
    choices = _choices(parameters, model.main_input_name)
    first = [(0, names) for names in choices]
    others = [(variant, names) for names in choices for variant in range(1, VARIANTS)]
    for variant, names in (*first, *others):
        made = {name: _made(name, model.config) for name in names}
        if variant == 0 or any(len(values) > variant for values in made.values()):
            yield {name: values[min(variant, len(values) - 1)] for name, values in made.items()} | fixed


def _choices(parameters: dict[str, inspect.Parameter], main: str) -> list[tuple[str, ...]]:
    """Return sets of parameters to try: all that are known, with masks, the main one, text alone, …."""
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    known = [name for name in parameters if OFFERED.match(name)]
    wanted = (
        known,
        known + [name for name in parameters if "mask" in name and "head" not in name],
        [name for name in (main, "decoder_input_ids") if name in parameters],
        [name for name in parameters if name in TEXT],
        [name for name in parameters if name in ("input_ids", "pixel_values")],
        [name for name in parameters if name == "inputs_embeds"],
        known + [name for name in parameters if "hidden_state" in name],
    )
    return list(dict.fromkeys(tuple(dict.fromkeys(required + names)) for names in wanted))


def _made(name: str, config: Any) -> list[Any]:
    """Return values for one argument of a forward, in each shape that models take."""
    return next((make(name, config) for pattern, make in MAKERS if re.search(pattern, name)), [None])


def _words(name: str, config: Any) -> list[Tensor]:
    words = torch.randint(50, 400, (1, TOKENS)) % _size(config, ("vocab_size",), 512)
    sees = any("image_size" in vars(level) for level in _levels(config))  # num_channels are then colours
    usual = 0 if sees or name.startswith("decoder") else 8
    books = _size(config, ("num_codebooks", "n_codes_total", *(() if sees else ("num_channels",))), usual)
    return (
        [words]
        if not books
        else [words, words.unsqueeze(-1).repeat(1, 1, books), words.unsqueeze(-1).repeat(1, 1, books + 1)]
    )


def _mask(name: str, config: Any) -> list[Tensor]:
    if name == "aspect_ratio_mask":
        return [torch.ones(1, 1, _size(config, ("max_num_tiles",), 1), dtype=torch.long)]
    if name == "pixel_attention_mask":
        frames = _size(config, ("num_frames",), 2)
        return [torch.ones(1, PATCHES, dtype=torch.long), torch.ones(1, frames, dtype=torch.bool)]
    length = _sounds(name, config)[0].shape[-1] if "features" in name else SAMPLES if "values" in name else TOKENS
    return [torch.ones(1, length, dtype=torch.long)]


def _states(name: str, config: Any) -> list[Tensor]:
    return [torch.zeros(1, TOKENS, _size(config, WIDTHS.get(name, ()), 1))]


def _hidden(name: str, config: Any) -> list[Tensor]:
    other = WIDTHS.get(name, ())
    width = _size(config, (*other, *HIDDEN), 64)
    tokens, maps = torch.randn(1, TOKENS, width), torch.randn(1, width, 8, 8)
    if name.endswith("embeds") and "patch" not in name:
        return [tokens]
    return [tokens, torch.randn(PATCHES, width), maps, _images(name, config)[2]]


def _series(name: str, config: Any) -> list[Tensor]:
    """Return a time series, or its times, or its mask, of the length that a config's lags ask for."""
    ahead = _size(config, ("prediction_length",), 8)
    lags = max(getattr(config, "lags_sequence", None) or [0])
    length = ahead if name.startswith("future_") else _size(config, ("context_length",), ahead) + lags
    if "time_features" in name:
        return [torch.randn(1, length, getattr(config, "num_time_features", 1))]
    channels = _size(config, ("num_input_channels", "num_channels"), 1)
    make = torch.ones if "mask" in name else torch.randn
    return [make(1, length), make(1, length, channels)] if lags else [make(1, length, channels), make(1, length)]


def _images(name: str, config: Any) -> list[Tensor]:
    side = min(_size(config, ("image_size", "img_size"), 64), MAX_SIDE)
    given = getattr(config, "image_size", None)
    height, width = given if isinstance(given, list | tuple) and len(given) == 2 else (side, side)
    channels, patch = _size(config, ("num_channels", "in_channels", "in_chans"), 3), _size(config, ("patch_size",), 16)
    frames, temporal = _size(config, ("num_frames",), 2), _size(config, ("temporal_patch_size",), 1)
    tiles, flat = _size(config, ("max_num_tiles",), 1), channels * temporal * patch**2
    return [
        torch.randn(1, channels, height, width),
        torch.randn(1, frames, channels, height, width),
        torch.randn(PATCHES, flat),
        torch.randn(1, PATCHES, flat),
        torch.randn(1, PATCHES, channels, patch, patch),
        torch.randn(1, channels, frames, height, width),
        torch.randn(1, 1, tiles, channels, height, width),
        torch.randn(1, channels, height // 2, width),  # it is seen below another one
    ]


def _patches(name: str, config: Any) -> list[Tensor]:
    """Return patches behind their row and column."""
    return [torch.cat([torch.ones(1, PATCHES, 2), _images(name, config)[3]], dim=-1)]


def _sounds(name: str, config: Any) -> list[Tensor]:
    bands = _size(config, BANDS, 80)
    positions = _size(config, ("max_source_positions",), FRAMES // 2)
    frames = _size(config, ("max_length",), 2 * positions if positions <= MAX_POSITIONS else FRAMES)
    if name.startswith("decoder"):
        return [torch.randn(1, frames, bands)]
    return [
        torch.randn(1, bands, frames),
        torch.randn(1, frames, bands),
        torch.randn(1, SAMPLES),
        torch.randn(1, 1, SAMPLES),
        torch.randn(1, 1, frames, bands),
    ]


MAKERS: tuple[tuple[str, Callable[[str, Any], list[Any]]], ...] = (
    (r"input_ids$|codes$", _words),
    (r"^codebook_idx$", lambda name, config: [1]),
    (r"^(states|actions|rewards|returns_to_go)$", _states),
    (r"^timesteps$", lambda name, config: [torch.arange(TOKENS).unsqueeze(0)]),
    (r"^(past|future)_", _series),
    (r"^prompt_masks$", _images),
    (r"mask", _mask),
    (r"^lang_ids$", lambda name, config: [torch.zeros(1, dtype=torch.long)]),
    (r"^bbox$", lambda name, config: [torch.arange(4).repeat(1, TOKENS, 1)]),
    (r"^spatial_shapes$", lambda name, config: [torch.tensor([[4, 4]])]),
    (r"^aspect_ratio_ids$", lambda name, config: [torch.ones(1, 1, dtype=torch.long)]),
    (r"^flattened_patches$", _patches),
    (r"^visual_feats$", lambda name, config: [torch.randn(1, TOKENS, _size(config, ("visual_feat_dim",), 64))]),
    (r"^visual_pos$", lambda name, config: [torch.rand(1, TOKENS, 4)]),
    (r"grid", lambda name, config: [torch.tensor([[1, 4, 4]])]),
    (r"^((prompt_)?pixel_values(_videos)?|images?|x)$", _images),
    (r"^(input_features|(decoder_)?input_values|audio_values)$", _sounds),
    (r"(states?|embeds|features)$|^inputs$", _hidden),
)


def _size(config: Any, names: tuple[str, ...], default: int) -> int:
    """Return the first integer of these names in a config or, failing that, in the configs nested in it."""
    for level in _levels(config):
        for name in names:
            value = vars(level).get(level.attribute_map.get(name, name))
            value = value[0] if isinstance(value, list | tuple) and value else value
            if type(value) is int and value > 0:
                return value
    return default


def _levels(config: Any) -> list[Any]:
    """Return a config and the configs nested in it, the outermost first."""
    levels = [config]
    for level in levels:
        levels += [value for value in vars(level).values() if hasattr(value, "to_diff_dict")]
    return levels
