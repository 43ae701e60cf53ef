"""The stand-in's files: sparse, made by hand, in shards, from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.catalogue import (
    SparseContent,
    repo_from_folder,
    sparse_llama,
)
from deployments.demo.checkpoint import PlannedTensor, read_header, sparse_checkpoint
from tests.demo_tools import CONFIG


class TestContents:
    @given(
        pieces=st.dictionaries(st.sampled_from(range(0, 60, 6)), st.binary(max_size=6)),
        size=st.integers(0, 70),
        start=st.integers(0, 80),
        length=st.integers(0, 80),
    )
    def test_a_sparse_file_is_zeros_with_its_pieces(
        self, pieces: dict[int, bytes], size: int, start: int, length: int
    ) -> None:
        whole = bytearray(80)
        for offset, piece in pieces.items():
            whole[offset : offset + len(piece)] = piece
        assert SparseContent(size, pieces).read(start, start + length) == whole[:size][start : start + length]

    def test_the_reference_reader_reads_a_checkpoint_made_by_hand(self) -> None:
        scale = np.linspace(0.5, 2, 8, dtype=np.float32)
        planned = [PlannedTensor("z.weight", "F32", (8,)), PlannedTensor("a.weight", "F16", (3, 5))]
        made = sparse_checkpoint(planned, {"z.weight": scale.tobytes()})
        tensors = safetensors.numpy.load(made.read(0, made.size))
        assert tensors["z.weight"].tolist() == scale.tolist()
        assert tensors["a.weight"].shape == (3, 5)
        assert not tensors["a.weight"].any()

    def test_shards_hold_together_what_the_index_says(self) -> None:
        stored = sparse_llama("a/b", layers=3, hidden_size=128, intermediate_size=256, vocabulary_size=100, shards=4)
        index = json.loads(stored.files["model.safetensors.index.json"].read(0, 10**6))
        held = {
            name: path
            for path, content in stored.files.items()
            for name in (read_header(content) or {} if path.endswith(".safetensors") else {})
        }
        assert len(set(held.values())) == 4
        assert {name: path for name, path in held.items() if name != "__metadata__"} == index["weight_map"]

    def test_a_folder_becomes_a_repo(self, tmp_path: Path) -> None:
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "config.json").write_bytes(CONFIG)
        stored = repo_from_folder("a/b", tmp_path, downloads=7)
        assert list(stored.files) == ["unet/config.json"]
        assert (stored.files["unet/config.json"].read(0, 5), stored.downloads) == (CONFIG[:5], 7)
