"""Options of the Hub client: what they refuse, where they come from, what they never show."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import BadFile, Failed, Transient
from tasks.hub import HubOptions, options_from_environment
from tasks.hub.retry import Contradiction, Patience, settled


@pytest.mark.parametrize("endpoint", ["", "huggingface.co", "ftp://host", "http://", "https://host?x=1"])
def test_an_endpoint_is_an_http_address(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint is no address of a Hub"):
        HubOptions(endpoint)


@pytest.mark.parametrize("token", ["", " ", "hf_a\n", "hf_é"])
def test_a_token_can_be_sent_in_a_header(token: str) -> None:
    with pytest.raises(ValueError, match="check HF_TOKEN") as caught:
        HubOptions("https://host", token)
    assert "hf_" not in str(caught.value)


def test_a_contact_can_be_sent_in_a_header() -> None:
    with pytest.raises(ValueError, match=r"contact 'a\\r\\nX-Evil: 1' cannot be sent"):
        HubOptions("https://host", contact="a\r\nX-Evil: 1")


def test_options_never_show_the_token() -> None:
    assert "hf_secret" not in repr(HubOptions("https://host", "hf_secret"))


def test_options_come_from_the_variables_that_huggingface_hub_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:7")
    monkeypatch.setenv("HF_TOKEN", "hf_from_the_environment")
    options = options_from_environment("mailto:ops@example.org")
    assert (options.endpoint, options.token) == ("http://127.0.0.1:7", "hf_from_the_environment")
    assert options.user_agent.endswith("(+mailto:ops@example.org)")


def test_the_token_is_left_alone_where_it_is_not_to_be_used_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_from_the_environment")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert options_from_environment().token is None


@given(tries=st.integers(1, 4), seed=st.integers())
def test_a_wait_is_drawn_below_a_bound_that_doubles(tries: int, seed: int) -> None:
    patience = Patience(HubOptions("https://host", first_wait_s=1.0, longest_wait_s=3.0), random.Random(seed))
    assert 0 <= patience.wait_s(Transient("x"), tries) <= min(3.0, 2.0 ** (tries - 1))


def test_a_wait_that_was_asked_for_is_kept_to_the_second() -> None:
    assert Patience(HubOptions("https://host")).wait_s(Transient("x", wait_s=55.0), tries=1) == 55.0


def test_tries_are_counted() -> None:
    with pytest.raises(Failed, match=r"x \(tried 5 times\)") as caught:
        Patience(HubOptions("https://host", retries=4)).wait_s(Transient("x"), tries=5)
    assert not isinstance(caught.value, Transient)


def test_a_contradiction_that_stays_is_the_files_own_and_any_other_fault_is_not() -> None:
    assert type(settled(Contradiction("x"), 1)) is BadFile
    assert type(settled(Transient("x"), 1)) is Failed
