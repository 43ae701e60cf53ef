"""Pictures and sounds for models to look at and listen to: noise whose spectrum falls as nature's does, or files."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tasks.core.errors import shown
from tasks.model.faults import NoProbe, in_words

SAMPLE_RATE = 16_000  # of nearly all speech models, in Hz
WINDOW, HOP = 400, 160  # of the spectrogram, in samples: 25 and 10 ms
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")
MEL_BREAK_HZ, MEL_SCALE = 700.0, 2595.0  # of the usual mel scale
LOG_FLOOR, LOG_RANGE = 1e-10, 8.0  # Whisper's: power below the floor, and what lies 80 dB under the peak, is silence


def noise_image(channels: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return 1/f noise, shape (channels, height, width), mean 0, spread 1 in each channel."""
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :])
    frequency[0, 0] = 1.0 / max(height, width)
    white = torch.randn((channels, height, width), generator=generator)
    return _standardised(torch.fft.ifft2(torch.fft.fft2(white) / frequency).real, (1, 2))


def noise_wave(samples: int, generator: torch.Generator) -> Tensor:
    """Return 1/f noise, shape (samples,), mean 0, spread 1."""
    frequency = torch.fft.rfftfreq(samples)
    frequency[0] = 1.0 / samples
    white = torch.randn(samples, generator=generator)
    return _standardised(torch.fft.irfft(torch.fft.rfft(white) / frequency.sqrt(), n=samples), (0,))


def folder_images(folder: Path, channels: int, height: int, width: int) -> list[Tensor]:
    """Return a folder's pictures, each of shape (channels, height, width), mean 0, spread 1.

    Raises:
        NoProbe: there are none, one cannot be read, or Pillow is not installed.
    """
    found = _files(folder, PICTURES)
    try:
        from PIL import Image
    except ImportError as error:
        raise NoProbe("failed", "pictures are read with Pillow, which is not installed; leave --data away") from error
    pictures = []
    for path in found:
        try:
            with Image.open(path) as opened:
                values = np.asarray(opened.convert("L" if channels == 1 else "RGB").resize((width, height)), np.float32)
        except OSError as error:
            raise NoProbe("bad_file", f"{shown(path)}: {in_words(error)}") from error
        picture = torch.from_numpy(values.reshape(height, width, -1).copy()).movedim(-1, 0)
        pictures.append(_standardised(picture.expand(channels, -1, -1), (1, 2)))
    return pictures


def folder_waves(folder: Path, samples: int) -> list[Tensor]:
    """Return a folder's WAV files as mono at 16 kHz, each of shape (samples,), repeated or cut to that length.

    Raises:
        NoProbe: there are none, or one is not 16-bit PCM.
    """
    return [_cut(_wave(path), samples) for path in _files(folder, (".wav",))]


def log_mel(sound: Tensor, bands: int, frames: int) -> Tensor:
    """Return the logarithm of a sound's mel spectrogram, shape (bands, frames), scaled as Whisper's is."""
    window = torch.hann_window(WINDOW)
    power = torch.stft(sound, WINDOW, HOP, window=window, return_complex=True)[..., :frames].abs() ** 2
    mel = torch.log10((_mel_filters(bands) @ power).clamp(min=LOG_FLOOR))
    mel = torch.maximum(mel, mel.max() - LOG_RANGE)
    return (nn.functional.pad(mel, (0, frames - mel.shape[1]), value=float(mel.min())) + 4.0) / 4.0


def _mel_filters(bands: int) -> Tensor:
    """Return triangles evenly spaced on the mel scale, shape (bands, WINDOW // 2 + 1)."""
    top = MEL_SCALE * np.log10(1 + SAMPLE_RATE / 2 / MEL_BREAK_HZ)
    edges = MEL_BREAK_HZ * (10 ** (torch.linspace(0, float(top), bands + 2) / MEL_SCALE) - 1)
    hertz = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    rising = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in endings) if folder.is_dir() else []
    if not found:
        raise NoProbe("not_found", f"{shown(folder)}: no file there that ends in {', '.join(endings)}")
    return found


def _wave(path: Path) -> Tensor:
    try:
        with wave.open(str(path), "rb") as opened:
            width, channels, rate = opened.getsampwidth(), opened.getnchannels(), opened.getframerate()
            data = opened.readframes(opened.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise NoProbe("bad_file", f"{shown(path)}: {in_words(error)}") from error
    if width != 2 or not data:
        raise NoProbe("bad_file", f"{shown(path)}: {8 * width}-bit samples, {len(data):,} bytes; 16-bit PCM is read")
    mono = np.frombuffer(data, "<i2").reshape(-1, channels).mean(axis=1)
    at = np.arange(0, len(mono), rate / SAMPLE_RATE)
    return _standardised(torch.from_numpy(np.interp(at, np.arange(len(mono)), mono).astype(np.float32)), (0,))


def _cut(sound: Tensor, samples: int) -> Tensor:
    return sound.repeat(-(-samples // len(sound)))[:samples]


def _standardised(values: Tensor, over: tuple[int, ...]) -> Tensor:
    spread = values.std(dim=over, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return (values - values.mean(dim=over, keepdim=True)) / spread
