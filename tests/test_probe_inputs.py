"""What models are run on that take no text: pictures, videos and sounds, of noise or from a folder."""

import wave

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("PIL")

from PIL import Image

from tasks.model.attempt import probed
from tasks.model.jobs import Job
from tests.probes import CONFIGS, SPEECH, USUAL, WIDTH, WORDS, unheard

FRAMES = {**USUAL, "image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}
TEXT = {**USUAL, **WORDS, "num_key_value_heads": 2, "head_dim": 8}
TURNING = {"mrope_section": [1, 1, 2], "rope_type": "default"}
SEEING = {"depth": 2, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": 4, "patch_size": 8}
VIDEOS = {
    "videomae": {"model_type": "videomae", **FRAMES, "architectures": ["VideoMAEForVideoClassification"]},
    "vivit": {"model_type": "vivit", **FRAMES, "tubelet_size": [2, 8, 8]},
    "timesformer": {"model_type": "timesformer", **FRAMES},
    "vjepa2": {"model_type": "vjepa2", **USUAL, "crop_size": 32, "patch_size": 8, "frames_per_clip": 4,
               "pred_hidden_size": 16, "pred_num_attention_heads": 4, "pred_num_hidden_layers": 2},
}  # fmt: skip
QWEN2_VL = {
    "model_type": "qwen2_vl",
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "text_config": {**TEXT, "model_type": "qwen2_vl_text", "rope_scaling": TURNING},
    "vision_config": SEEING,
}
WAVES = {
    "model_type": "wav2vec2",
    **USUAL,
    "vocab_size": 32,
    "conv_dim": [16, 16],
    "conv_stride": [5, 64],
    "conv_kernel": [10, 64],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LISTENING = {"waves": WAVES, "whisper": {**CONFIGS["whisper"], **SPEECH}}


def row_of(config, **fields):
    [found] = probed(Job("m", config=config, weights="random", **fields), unheard)
    return found.row


@pytest.fixture
def pictures(tmp_path):
    """A folder with three pictures of several modes and sizes, and a file that is none."""
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (40, 50, 3)), ("b.png", (16, 16)), ("c.jpg", (64, 20, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.fixture
def sounds(tmp_path):
    """A folder with a sound at 16 kHz, and one in stereo at another rate."""
    rng = np.random.default_rng(0)
    for name, rate, channels in (("a.wav", 16_000, 1), ("b.wav", 44_100, 2)):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(rng.integers(-9_000, 9_000, rate * channels, dtype="<i2").tobytes())
    return tmp_path


@pytest.mark.parametrize("name", VIDEOS)
def test_a_model_of_videos_is_run_on_as_many_pictures_at_a_time_as_it_takes(name):
    row = row_of(VIDEOS[name])
    assert (row["status"], row["inputs"], row["verdict"]) == ("ok", "images", "present"), row["reason"]
    assert row["n_tokens"] == 4 * WIDTH
    assert row["alignment"] >= 0.99995


def test_a_model_that_reads_text_beside_videos_is_run_on_its_text():
    row = row_of(QWEN2_VL)
    assert (row["status"], row["inputs"], row["verdict"]) == ("ok", "random", "absent"), row["reason"]


@pytest.mark.parametrize("config", [CONFIGS["vit"], VIDEOS["timesformer"]])
def test_pictures_of_a_folder_are_looked_at_in_place_of_noise(config, pictures):
    seen, noise = row_of(config, data=str(pictures)), row_of(config)
    assert (seen["status"], seen["inputs"], seen["verdict"]) == ("ok", "images", "present"), seen["reason"]
    assert seen["spectrum"] != noise["spectrum"]


@pytest.mark.parametrize("name", LISTENING)
def test_sounds_of_a_folder_are_listened_to_in_place_of_noise(name, sounds):
    heard, noise = row_of(LISTENING[name], data=str(sounds)), row_of(LISTENING[name])
    assert (heard["status"], heard["inputs"], heard["verdict"]) == ("ok", "audio", "present"), heard["reason"]
    assert heard["spectrum"] != noise["spectrum"]


@pytest.mark.parametrize(("name", "ending"), [("vit", ".png"), ("whisper", ".wav")])
def test_a_folder_without_what_the_model_takes_is_told_with_what_is_looked_for(name, ending, tmp_path):
    row = row_of(CONFIGS[name], data=str(tmp_path))
    assert (row["status"], ending in row["reason"]) == ("not_found", True)


@pytest.mark.parametrize(("name", "file"), [("vit", "broken.png"), ("whisper", "broken.wav")])
def test_a_file_that_is_not_what_its_name_says_is_named(name, file, tmp_path):
    (tmp_path / file).write_bytes(b"neither picture nor sound")
    row = row_of(CONFIGS[name], data=str(tmp_path))
    assert (row["status"], file in row["reason"]) == ("bad_file", True)


def test_a_folder_of_pictures_for_a_model_of_text_is_told_and_not_passed_over(pictures):
    row = row_of(CONFIGS["gpt2"], data=str(pictures))
    assert (row["status"], "pictures or sounds" in row["reason"]) == ("unsupported", True)
