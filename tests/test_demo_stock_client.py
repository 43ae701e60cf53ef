"""huggingface_hub's own calls work against the stand-in unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, errors, get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils._xet import refresh_xet_connection_info

from deployments.demo.catalogue import BytesContent, sparse_7b, sparse_70b
from deployments.demo.standin import StandIn, Switches
from tests.demo_tools import CONFIG, TOKEN, WEIGHTS, stock

REPOS = stock()


@pytest.fixture(scope="module")
def llamas() -> Iterator[StandIn]:
    repos = [sparse_7b("meta/llama-7b"), sparse_70b("meta/llama-70b")]
    with StandIn(repos) as running:
        yield running


@pytest.fixture
def big(llamas: StandIn) -> Iterator[StandIn]:
    yield llamas
    llamas.clear()


class TestStockClient:
    """huggingface_hub works against it unchanged."""

    def test_list_models_follows_the_pages(self, hub: StandIn) -> None:
        models = HfApi(hub.endpoint, token=TOKEN).list_models(limit=2, author="org", expand=["sha", "siblings"])
        assert [len(model.siblings) for model in models] == [5, 5]
        assert len(list(HfApi(hub.endpoint, token=False).list_models())) == 6

    def test_model_info_tells_sizes_and_hashes(self, hub: StandIn) -> None:
        info = HfApi(hub.endpoint, token=False).model_info("org/plain", files_metadata=True)
        weights = next(sibling for sibling in info.siblings or [] if sibling.rfilename == "model.safetensors")
        assert weights.size == len(WEIGHTS)
        assert weights.lfs is not None
        assert weights.lfs.sha256 == hub.repos["org/plain"].sha256_of("model.safetensors")

    @pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
    def test_a_download_is_the_file(self, hub: StandIn, tmp_path: Path, path: str) -> None:
        api = HfApi(hub.endpoint, token=False)
        file = api.hf_hub_download("org/plain", path, cache_dir=tmp_path)
        content = hub.repos["org/plain"].files[path]
        assert Path(file).read_bytes() == content.read(0, content.size)

    def test_tree_and_paths_info_agree(self, hub: StandIn) -> None:
        api = HfApi(hub.endpoint, token=False)
        tree = {entry.path: entry for entry in api.list_repo_tree("org/plain", recursive=True)}
        assert set(tree) == {*hub.repos["org/plain"].files, "onnx"}
        named = api.get_paths_info("org/plain", ["onnx", "model.safetensors", "absent"])
        assert named == [tree["onnx"], tree["model.safetensors"]]

    def test_a_file_system_reads_ranges(self, big: StandIn) -> None:
        fs = HfFileSystem(endpoint=big.endpoint, token=False, skip_instance_cache=True)
        with fs.open("meta/llama-7b/model.safetensors", cache_type="none") as file:
            file.seek(8)
            assert file.read(16) == b'{"__metadata__":'
        assert fs.ls("meta/llama-7b", detail=False) == ["meta/llama-7b/config.json", "meta/llama-7b/model.safetensors"]

    @pytest.mark.parametrize(("model", "tensors", "requests"), [("7b", 291, 3), ("70b", 723, 66)])
    def test_reading_all_headers_takes_the_known_number_of_requests(
        self, big: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, tensors: int, requests: int
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        metadata = HfApi(big.endpoint, token=False).get_safetensors_metadata(f"meta/llama-{model}")
        assert (len(metadata.weight_map), len(big.requests)) == (tensors, requests)

    def test_one_request_has_all_headers_of_the_shards(self, big: StandIn) -> None:
        metadata = HfApi(big.endpoint, token=False).get_sharded_safetensors_metadata("meta/llama-70b")
        assert (len(metadata.files_metadata), len(metadata.weight_map), len(big.requests)) == (30, 723, 1)
        big.switches.sharded_endpoint = False
        with pytest.raises(errors.HfHubHTTPError, match="404"):
            HfApi(big.endpoint, token=False).get_sharded_safetensors_metadata("meta/llama-70b")
        big.switches.sharded_endpoint = True

    def test_the_tree_is_told_page_by_page_with_last_commits(self, hub: StandIn) -> None:
        hub.switches.page_size = 2
        entries = list(HfApi(hub.endpoint, token=False).list_repo_tree("org/plain", recursive=True, expand=True))
        assert len(entries) == 6
        assert {entry.last_commit.oid for entry in entries if entry.last_commit} == {hub.repos["org/plain"].sha}

    def test_chunks_are_found_where_they_are_offered(self, hub: StandIn) -> None:
        hub.switches.xet = True
        api, stored = HfApi(hub.endpoint, token=False), hub.repos["org/plain"]
        url = hf_hub_url("org/plain", "model.safetensors", endpoint=hub.endpoint)
        found = get_hf_file_metadata(url, token=False, endpoint=hub.endpoint)
        assert found.xet_file_data is not None
        assert found.xet_file_data.file_hash == stored.xet_hash_of("model.safetensors")
        connection = refresh_xet_connection_info(file_data=found.xet_file_data, headers={})
        assert connection.endpoint == hub.cdn_origin
        [entry] = api.get_paths_info("org/plain", "model.safetensors")
        assert entry.xet_hash == found.xet_file_data.file_hash

    def test_metadata_of_a_file_are_the_commit_the_hash_and_the_size(self, hub: StandIn) -> None:
        stored = hub.repos["org/plain"]
        for path, etag in (
            ("model.safetensors", stored.sha256_of("model.safetensors")),
            ("config.json", stored.oid_of("config.json")),
        ):
            found = get_hf_file_metadata(hf_hub_url("org/plain", path, endpoint=hub.endpoint), token=False)
            assert (found.commit_hash, found.etag, found.size) == (stored.sha, etag, stored.files[path].size)

    def test_an_earlier_commit_is_still_there(self, hub: StandIn, tmp_path: Path) -> None:
        stored = hub.repos["org/popular"]
        before, files = stored.sha, stored.files
        stored.commit("e" * 40, {**files, "config.json": BytesContent(b"{}")})
        api = HfApi(hub.endpoint, token=False)
        texts = [
            Path(api.hf_hub_download("org/popular", "config.json", revision=revision, cache_dir=tmp_path)).read_bytes()
            for revision in (before, "main")
        ]
        assert texts == [CONFIG, b"{}"]
        assert (api.model_info("org/popular").sha, api.model_info("org/popular", revision=before).sha) == (
            "e" * 40,
            before,
        )

    def test_a_spent_quota_is_waited_out(self) -> None:
        limits = Switches(limits={"api": (1, 1), "resolvers": (1, 1)}, page_size=2)
        with StandIn(stock(), switches=limits) as hub:
            assert len(list(HfApi(hub.endpoint, token=False).list_models(limit=3, expand=["sha"]))) == 3
            assert 429 in {request.status for request in hub.requests}

    @pytest.mark.parametrize(
        ("name", "path", "revision", "error"),
        [
            ("gated", "config.json", "main", errors.GatedRepoError),
            ("disabled", "config.json", "main", errors.DisabledRepoError),
            ("absent", "config.json", "main", errors.RepositoryNotFoundError),
            ("plain", "absent.json", "main", errors.EntryNotFoundError),
            ("plain", "config.json", "0" * 40, errors.RevisionNotFoundError),
        ],
    )
    def test_errors_are_told_apart(
        self, hub: StandIn, name: str, path: str, revision: str, error: type[Exception]
    ) -> None:
        url = hf_hub_url(f"org/{name}", path, revision=revision, endpoint=hub.endpoint)
        with pytest.raises(error):
            get_hf_file_metadata(url, token=TOKEN)
