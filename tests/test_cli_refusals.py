"""What the command `normaudit` cannot do is a line on stderr and exit status 2, before anything is begun."""

import pytest

from tests.command import normaudit


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit"], "MODEL"),
        (["audit", "x/y", "--norms", "some"], "Invalid value for '--norms'"),
        (["audit", ""], "an empty MODEL"),
        (["audit", "x/y", "--no-such-option"], "--no-such-option"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_names_what_is_wrong(own_home, arguments, says):
    run = normaudit(*arguments)
    assert run.exit_code == 2
    assert says in run.stderr
    assert run.stdout == ""


WRONG_ENDPOINTS = ["localhost:1", "foo", "ftp://hub", "no address", "http://", "http://[::1", "http://h:99999", "x\n",
                   "http://x?y=1"]  # fmt: skip


@pytest.mark.parametrize("endpoint", WRONG_ENDPOINTS)
def test_an_endpoint_that_is_no_address_is_one_line(own_home, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    run = normaudit("audit", "org/gpt2", "--no-store")
    assert run.exit_code == 2
    assert "HF_ENDPOINT" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_token_that_no_header_can_carry_is_one_line(own_home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "é")
    run = normaudit("audit", "org/gpt2", "--no-store")
    assert run.exit_code == 2
    assert "HF_TOKEN" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_name_longer_than_any_path_is_one_line(own_home):
    run = normaudit("audit", "x" * 5000, "--no-store")
    assert run.exit_code == 2
    assert len(run.stderr.splitlines()) == 1
    assert "too long" in run.stderr


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("norms = 'some'\n[[sources]]\ntop = 1\n", ["line 1: norms"]),
        ("contact = 3\nendpint = 'x'\n[[sources]]\ntop = 1\n", ["line 1: contact", "line 2: endpint"]),
        ("[[sources]\n", ["not valid TOML"]),
        ("[limits]\nretries = -1\n", ["sources", "line 2: limits.retries"]),
        ('contact = "é"\n[[sources]]\ntop = 1\n', ["line 1: contact"]),
        ('contact = "a\\r\\nX: y"\n[[sources]]\ntop = 1\n', ["line 1: contact"]),
        ('endpoint = "https://h:99999"\n[[sources]]\ntop = 1\n', ["line 1: endpoint"]),
        ('endpoint = "http://[::1"\n[[sources]]\ntop = 1\n', ["line 1: endpoint"]),
        ('endpoint = "http://x?y=1"\n[[sources]]\ntop = 1\n', ["line 1: endpoint"]),
    ],
)
def test_a_wrong_config_is_exit_status_2_and_a_line_for_each_complaint(tmp_path, own_home, text, complaints):
    config = tmp_path / "wrong.toml"
    config.write_text(text)
    run = normaudit("nightly", "--config", config, "--store", tmp_path / "store")
    assert run.exit_code == 2
    lines = run.stderr.splitlines()
    assert len(lines) == len(complaints)
    for complaint in complaints:
        assert any(complaint in line and str(config) in line for line in lines), lines
    assert run.stdout == ""
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("text", "variables", "complaint"),
    [
        ("[[sources]]\ntop = 1\n", {"HF_TOKEN": "é"}, "HF_TOKEN"),
        ("[[sources]]\ntop = 1\n", {"HF_ENDPOINT": "foo"}, "HF_ENDPOINT"),
        ("[[sources]]\nfile = 'no-such-list.txt'\n", {}, "no-such-list.txt"),
    ],
)
def test_what_no_night_can_use_is_told_before_a_server_is_started(
    tmp_path, own_home, monkeypatch, text, variables, complaint
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "nightly.toml").write_text(text)
    run = normaudit("nightly", "--config", tmp_path / "nightly.toml", "--store", tmp_path / "store")
    assert run.exit_code == 2
    assert complaint in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "prefect").exists()


def test_a_config_that_is_not_there_is_one_line(tmp_path, own_home):
    run = normaudit("nightly", "--config", tmp_path / "none.toml")
    assert run.exit_code == 2
    assert len(run.stderr.splitlines()) == 1
    assert "none.toml" in run.stderr
