import pytest

from tasks.core.records import RepoFile
from tasks.core.selection import select_checkpoint


def chosen(*paths, sizes=None):
    found = select_checkpoint([RepoFile(path, (sizes or {}).get(path)) for path in paths])
    return found and (found.index or found.weights)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.safetensors", "config.json"], ("model.safetensors",)),
        ([*SHARDS, INDEX], INDEX),
        (SHARDS, SHARDS),
        (["model.safetensors", *SHARDS, INDEX], ("model.safetensors",)),
        (["model.fp16.safetensors", "model.safetensors"], ("model.safetensors",)),
        (["model.fp16.safetensors"], ("model.fp16.safetensors",)),
        (
            ["model.safetensors.index.fp16.json", "model.fp16-00001-of-00002.safetensors"],
            "model.safetensors.index.fp16.json",
        ),
        (["my-merge.safetensors", "README.md"], ("my-merge.safetensors",)),
        (["consolidated.safetensors", *SHARDS, INDEX], INDEX),
        (["2_Dense/model.safetensors", "model.safetensors"], ("model.safetensors",)),
        (["adapter_model.safetensors", "checkpoint-10/model.safetensors"], ("checkpoint-10/model.safetensors",)),
        (["adapter_model.safetensors"], ("adapter_model.safetensors",)),
        (
            [
                "vae/diffusion_pytorch_model.safetensors",
                "unet/diffusion_pytorch_model.safetensors",
                "text_encoder/model.safetensors",
            ],
            ("unet/diffusion_pytorch_model.safetensors",),
        ),
        (["unet/diffusion_pytorch_model.fp16.safetensors"], ("unet/diffusion_pytorch_model.fp16.safetensors",)),
        (
            ["transformer/diffusion_pytorch_model.safetensors.index.json"],
            "transformer/diffusion_pytorch_model.safetensors.index.json",
        ),
        (["pytorch_model.bin", "model.gguf"], None),
        ([], None),
    ],
)
def test_the_checkpoint_that_stands_for_a_repo(files, expected):
    assert chosen(*files) == expected
    assert chosen(*reversed(files)) == expected


def test_of_equals_the_largest():
    assert chosen("a.safetensors", "b.safetensors", sizes={"a.safetensors": 1, "b.safetensors": 2}) == (
        "b.safetensors",
    )


def test_the_config_lies_beside_the_weights():
    found = select_checkpoint([RepoFile("unet/diffusion_pytorch_model.safetensors", 7)])
    assert found.config == "unet/config.json"
    assert found.size_bytes == 7


def test_the_size_is_unknown_when_that_of_a_shard_is():
    assert select_checkpoint([RepoFile(SHARDS[0], 5), RepoFile(SHARDS[1]), RepoFile(INDEX)]).size_bytes is None
    assert select_checkpoint([RepoFile(SHARDS[0], 5), RepoFile(SHARDS[1], 6), RepoFile(INDEX)]).size_bytes == 11


def test_shards_without_an_index_are_not_read_by_the_hundred():
    assert chosen(*(f"model-{i:05}-of-00100.safetensors" for i in range(1, 101))) is None
