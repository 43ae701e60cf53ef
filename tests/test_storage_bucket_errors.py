"""A store in a bucket when something is wrong: one line each, and no credential in any."""

from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.store import open_store
from tests.s3_server import S3Server, put


def actions(store):
    """Everything that a store's files are asked for."""
    place = store.place
    return {
        "is_there": place.is_there,
        "names": lambda: place.names("parts"),
        "read": lambda: place.read("x"),
        "write": lambda: put(place, "x"),
        "swap": lambda: place.swap("x", None, b"1"),
        "clock": lambda: place.clock(lambda: 0.0),
        "source": lambda: place.arrow_source("x").read(1),
        "move": lambda: place.move("x", "y"),
    }


ACTIONS = sorted(actions(open_store("s3://tests/x")))


@pytest.mark.parametrize("action", ACTIONS)
def test_a_missing_bucket_is_an_error_of_one_line(bucket, action):
    with pytest.raises(StoreError, match=r"there is no bucket s3://missing; create it, or name another store$") as told:
        actions(open_store("s3://missing/store"))[action]()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("action", ["is_there", "read", "swap", "source"])
def test_a_server_that_is_away_is_an_error_of_one_line(bucket, action, monkeypatch):
    monkeypatch.setattr("storage.objects._RETRIES", {"max_retries": 1})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:7")
    with pytest.raises(StoreError, match=r"s3://tests/x: .*its server cannot be reached; .* AWS_ENDPOINT_URL") as told:
        actions(open_store("s3://tests/x"))[action]()
    assert "\n" not in str(told.value)


def answering(status, code):
    """Return an application that answers everything as S3 answers in error, a wrong signature for one."""

    def answer(environ, start_response):
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(status, [("Content-Type", "application/xml")])
        told = f"<Code>{code}</Code><AWSAccessKeyId>AKIATESTS</AWSAccessKeyId><StringToSign>x</StringToSign>"
        return [f"<?xml version='1.0'?><Error>{told}</Error>".encode()]

    return answer


@pytest.mark.parametrize("action", [name for name in ACTIONS if name != "clock"])
def test_wrong_credentials_are_an_error_that_repeats_none(monkeypatch, action, tmp_path):
    monkeypatch.setattr(
        "tests.s3_server.DomainDispatcherApplication",
        lambda create: answering("403 Forbidden", "SignatureDoesNotMatch"),
    )
    with S3Server() as server:
        for name, value in {**server.environment(), "XDG_CACHE_HOME": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreError, match=r"access was refused \(SignatureDoesNotMatch\); see AWS_ACCESS") as told:
            actions(open_store("s3://tests/x"))[action]()
    said = repr(told.value) + repr(told.value.__cause__)
    assert not any(secret in said for secret in ("AKIATESTS", "hush-hush", "StringToSign", "Signature="))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("address", ["", "minio:9000", "http://", "http://me:hush@host", "ftp://host", "http://a b"])
def test_an_endpoint_that_is_no_address_is_an_error_that_names_the_variable(bucket, monkeypatch, address):
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with pytest.raises(StoreError, match=r"^AWS_ENDPOINT_URL holds no address of a server; .* or unset it$"):
        open_store("s3://tests/x").place.read("x")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"])
def test_a_secret_that_was_pasted_with_the_end_of_its_line_is_an_error_that_names_the_variable(
    bucket, monkeypatch, name
):
    monkeypatch.setenv(name, "hush\n")
    with pytest.raises(StoreError, match=rf"^{name} holds a space, a line's end or") as told:
        open_store("s3://tests/x").place.read("x")
    assert "hush" not in str(told.value)


def test_half_of_a_credential_is_an_error(bucket, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="no credentials for s3://half were found; see AWS_ACCESS_KEY_ID"):
        open_store("s3://half/x").place.read("x")


def test_credentials_of_googles_store_that_cannot_be_read_are_an_error(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StoreError, match=r"what the environment says of gs://tests cannot be used; .*GOOGLE_APPL"):
        open_store("gs://tests/x").place.read("x")


@pytest.mark.parametrize("code", ["SlowDown", "InternalError"])
def test_a_server_that_fails_is_told_by_its_code(monkeypatch, tmp_path, code):
    monkeypatch.setattr("storage.objects._RETRIES", {"max_retries": 0})
    monkeypatch.setattr("tests.s3_server.DomainDispatcherApplication", lambda create: answering("503 Busy", code))
    with S3Server() as server:
        for name, value in {**server.environment(), "XDG_CACHE_HOME": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreError, match=f"its server answered 503 {code}; run again, and see to the server"):
            open_store("s3://tests/x").place.read("x")


@pytest.mark.parametrize(
    "location",
    ["s3://", "s3:///x", "s3://B/x", "s3://b", "s3://bucket//x", "s3://bucket/../x", "s3://bucket/x?y", "gs://"],
)
def test_an_address_that_names_no_bucket_is_an_error(location):
    with pytest.raises(StoreError, match=r"names no bucket; s3://bucket/folder"):
        open_store(location)


def test_an_address_that_holds_a_credential_is_refused_without_repeating_it():
    with pytest.raises(StoreError, match="holds no credentials") as told:
        open_store("s3://AKIAX:hush@bucket/store")
    assert "hush" not in str(told.value)


@pytest.mark.parametrize("location", ["ftp://host/x", "https://user:hush@host/x", "az://account/x"])
def test_an_address_of_another_kind_is_refused(location):
    with pytest.raises(StoreError, match=r"^\w+://…: a store is a folder, or in an object store") as told:
        open_store(location)
    assert "hush" not in str(told.value)


def test_a_store_in_a_bucket_is_opened_without_a_request_and_a_slash_at_its_end_means_nothing(s3, bucket):
    s3.requests.clear()
    assert open_store(f"{bucket}/") == open_store(bucket)
    assert open_store("gs://bucket/store").location == "gs://bucket/store"
    assert s3.requests == []


def test_the_cache_is_the_users_own(bucket, tmp_path):
    assert Path(open_store(bucket).place.cache.root).is_relative_to(tmp_path / "cache" / "normaudit")
