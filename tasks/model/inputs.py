"""What a model is run on: sequences of its own kind of input, each determined by the seed and its number alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.model import noise
from tasks.model.faults import NoProbe
from tasks.model.jobs import Inputs as Kind
from tasks.model.structure import forward_parameters
from tasks.model.tokens import has_tokenizer, random_ids, text_ids

SEQUENCE_TOKENS = 256  # text beyond makes attention cost more and the figures no better
SOUND_SECONDS = 5  # of a model that takes waves of any length
POSITIONS = (
    "max_target_positions",
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "n_ctx",
)
SPARE_POSITIONS = 2  # RoBERTa and OPT number positions from 2
BANDS = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")  # of a spectrogram
FRAMES = ("num_frames", "frames_per_clip")  # of a video
DEFAULT_SIDE, DEFAULT_BANDS, DEFAULT_FRAMES = 224, 80, 1_000
OWN_KIND: Mapping[str, Kind] = {
    "input_ids": "text",
    "pixel_values": "images",
    "pixel_values_videos": "images",
    "input_features": "audio",
    "input_values": "audio",
}

Sequence = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Inputs:
    """Sequences to run a model on.

    Attributes:
        kind: what they are.
        sequence: from a number to the arguments of a forward, each without the batch's dimension.
        fixed: arguments that are the same for all.
        remark: what was done other than asked, in words.
    """

    kind: Kind
    sequence: Sequence
    fixed: Mapping[str, Any]
    remark: str | None = None

    def batch(self, start: int, stop: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return the arguments of one forward pass on sequences [start, stop)."""
        made = [self.sequence(number) for number in range(start, stop)]
        stacked = {name: torch.stack([one[name] for one in made]).to(device) for name in made[0]}
        cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in stacked.items()}
        return {**cast, **self.fixed}


@dataclass(frozen=True)
class Wish:
    """What a user wants a model to be run on.

    Attributes:
        kind: None: of the model's own kind.
        tokens: how many are needed together.
        seed: of what is random.
        data: folder of pictures or sounds; None: noise.
        tokenizer: folder with the tokenizer's files; None: there are none.
        called: the model's name, for messages.
    """

    kind: Kind | None
    tokens: int
    seed: int
    data: Path | None
    tokenizer: Path | None
    called: str


def inputs_for(runner: Any, wish: Wish) -> Inputs:
    """Return inputs that a model takes.

    Args:
        runner: the model that is run.
        wish: what is wanted.

    Raises:
        NoProbe: the model does not take this kind, or the kind cannot be had: no tokenizer, no pictures.
    """
    takes = forward_parameters(runner)
    main = next(name for name in OWN_KIND if name in takes)
    if getattr(runner, "main_input_name", None) in OWN_KIND and runner.main_input_name in takes:
        main = runner.main_input_name
    own, remark = OWN_KIND[main], None
    kind = wish.kind or own
    if wish.kind is None and own == "text" and not has_tokenizer(wish.tokenizer):
        kind, remark = "random", "no tokenizer: random ids"
    if kind not in (own, "random"):
        raise NoProbe("unsupported", f"{wish.called}: takes {main}, so its inputs are {own} or random, not {kind}")
    if wish.data and kind not in ("images", "audio"):
        told = f"takes {main}, its inputs are {kind}; --data is for models that take pictures or sounds"
        raise NoProbe("unsupported", f"{wish.called}: {told}")
    sequence = _sequence(runner, replace(wish, kind=kind), main)
    if "decoder_input_ids" in takes:
        sequence = _with_decoder(sequence, runner, wish if own == "text" else replace(wish, kind=_beside(wish)), main)
    return Inputs(kind, sequence, {"use_cache": False} if "use_cache" in takes else {}, remark)


def _sequence(runner: Any, wish: Wish, main: str) -> Sequence:
    if main == "input_ids":
        ids = _ids(runner, wish)
        return lambda number: {main: ids(number)}
    encoder = getattr(runner.config, "encoder", None)
    config = encoder if hasattr(encoder, "model_type") else runner.config  # of two models in one it takes the input
    if OWN_KIND[main] == "images":
        picture = _moving(_pictures(config, wish), config)
        return lambda number: {main: picture(number)}
    sound = _sounds(config, wish, main)
    return lambda number: {main: sound(number)}


def _with_decoder(sequence: Sequence, runner: Any, wish: Wish, main: str) -> Sequence:
    """Return sequences that give a decoder something to go on: the encoder's own text, or text beside pictures."""
    if main == "input_ids":
        return lambda number: {**(one := sequence(number)), "decoder_input_ids": one[main]}
    ids = _ids(runner, wish)
    return lambda number: {**sequence(number), "decoder_input_ids": ids(number)}


def _beside(wish: Wish) -> Kind:
    return "text" if wish.kind != "random" and has_tokenizer(wish.tokenizer) else "random"


def _ids(runner: Any, wish: Wish) -> Callable[[int], Tensor]:
    config = runner.config.get_text_config()
    vocabulary = int(runner.get_input_embeddings().num_embeddings)
    length = min(SEQUENCE_TOKENS, wish.tokens, _positions(config))
    if wish.kind == "random":
        return lambda number: random_ids(config, vocabulary, length, _generator(wish.seed, number))
    text, before, after = text_ids(wish.tokenizer, wish.called, wish.tokens + length, vocabulary)
    taken = max(1, length - len(before) - len(after))
    shifted = text.roll(-wish.seed)

    def chunk(number: int) -> Tensor:
        at = (torch.arange(taken) + number * taken) % len(shifted)
        return torch.cat([before, shifted[at], after])[:length]

    return chunk


def _pictures(config: Any, wish: Wish) -> Callable[[int], Tensor]:
    side = getattr(config, "image_size", None) or getattr(config, "crop_size", None) or DEFAULT_SIDE
    height, width = side if isinstance(side, list | tuple) else (side, side)
    channels = getattr(config, "num_channels", None) or 3
    if wish.data and wish.kind != "random":
        found = noise.folder_images(wish.data, channels, height, width)
        return lambda number: found[number % len(found)]
    if wish.kind == "random":
        return lambda number: torch.randn((channels, height, width), generator=_generator(wish.seed, number))
    return lambda number: noise.noise_image(channels, height, width, _generator(wish.seed, number))


def _moving(picture: Callable[[int], Tensor], config: Any) -> Callable[[int], Tensor]:
    """Return pictures, or of a model of videos so many of them at a time as its config asks for."""
    frames = next((value for name in FRAMES if isinstance(value := getattr(config, name, None), int)), None)
    if frames is None:
        return picture
    return lambda number: torch.stack([picture(number * frames + frame) for frame in range(frames)])


def _sounds(config: Any, wish: Wish, main: str) -> Callable[[int], Tensor]:
    bands = next((value for name in BANDS if isinstance(value := getattr(config, name, None), int)), None)
    if main == "input_values" and bands is None:
        return _waves(wish, SOUND_SECONDS * noise.SAMPLE_RATE)
    is_whispers = main == "input_features" and hasattr(config, "num_mel_bins")
    frames = getattr(config, "max_length", None) if main == "input_values" else None
    frames = 2 * getattr(config, "max_source_positions", DEFAULT_FRAMES) if is_whispers else frames or DEFAULT_FRAMES
    waves = _waves(wish, (frames + 1) * noise.HOP)

    def spectrogram(number: int) -> Tensor:
        mel = noise.log_mel(waves(number), bands or DEFAULT_BANDS, frames)
        return mel if is_whispers else mel.T.contiguous()

    return spectrogram


def _waves(wish: Wish, samples: int) -> Callable[[int], Tensor]:
    if wish.data and wish.kind != "random":
        found = noise.folder_waves(wish.data, samples)
        return lambda number: found[number % len(found)]
    if wish.kind == "random":
        return lambda number: torch.randn(samples, generator=_generator(wish.seed, number))
    return lambda number: noise.noise_wave(samples, _generator(wish.seed, number))


def _positions(config: Any) -> int:
    """Return how many positions a model has; without a limit in its config, as many as are wanted."""
    found = [value for name in POSITIONS if isinstance(value := getattr(config, name, None), int) and value > 0]
    return max(1, min(found) - SPARE_POSITIONS) if found else SEQUENCE_TOKENS


def _generator(seed: int, number: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
