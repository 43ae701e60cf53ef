"""What a plan keeps of a listed repo."""

from hypothesis import given
from hypothesis import strategies as st

from storage.rows import rows_to_table
from storage.schema import CANDIDATES
from tasks.batch import Refusal
from tasks.candidates import DIGEST_KEYS, Seen, candidate_row, listing_of_row, pieces, refused
from tasks.core.records import Listing, RepoFile


@given(st.lists(st.lists(st.text(max_size=3), max_size=20), max_size=10))
def test_each_name_is_new_once_and_in_its_place(chunks):
    seen, known = Seen(), set()
    for names in chunks:
        expected = []
        for position, name in enumerate(names):
            if name not in known:
                known.add(name)
                expected.append(position)
        assert seen.first_of(names) == expected


@given(st.lists(st.integers()), st.integers(1, 5))
def test_pieces_together_are_the_whole(items, size):
    found = list(pieces(items, size))
    assert [item for piece in found for item in piece] == items
    assert all(len(piece) == size for piece in found[:-1])


def kept(item):
    [row] = rows_to_table([candidate_row(item)], CANDIDATES, "plan").to_pylist()
    return row


def test_what_a_batch_needs_of_a_listing_outlives_the_plan():
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    files = (RepoFile("model.safetensors", 7, "f" * 64), RepoFile("config.json"))
    listing = Listing("org/m", "0" * 40, files, config, private=False, gated="auto", parameter_count=7, is_head=False)
    assert listing_of_row(kept(listing)) == listing


def test_of_a_configs_digest_only_what_bears_on_norms_is_kept():
    long = Listing(
        "org/m", "0" * 40, config={"model_type": "llama", "tokenizer_config": {"chat_template": "x" * 9_999}}
    )
    assert listing_of_row(kept(long)).config == {"model_type": "llama"}
    assert "tokenizer_config" not in DIGEST_KEYS


def test_what_the_listing_itself_answers_is_an_audit_without_a_request():
    gone = refused(kept(Refusal("org/m", "not_found", "it is gone")))
    assert (gone.reading.status, gone.reading.reason, gone.cost.hub_requests) == ("not_found", "it is gone", 0)
    assert refused(kept(Listing("org/m", "0" * 40, disabled=True))).reading.status == "disabled"
