import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from flows.crawl import batch_crawl_of, crawl_of
from flows.settings import DEFAULT_CONFIG, HUB, Limits, NightlySettings, SettingsError, default_store, load_settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "nightly.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in ("HF_ENDPOINT", "HF_TOKEN", "NORMAUDIT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-login-here"))


def test_the_settings_that_ship_are_for_the_real_hub_and_need_no_change():
    settings = load_settings(ROOT / DEFAULT_CONFIG)
    assert settings.endpoint == HUB
    assert settings.store_location == "store"
    assert crawl_of(settings).queries[0].top == settings.sources[0].top


def test_one_line_decides_which_hub_is_audited(written):
    text = (ROOT / DEFAULT_CONFIG).read_text()
    demo = load_settings(written(text.replace(f'endpoint = "{HUB}"', 'endpoint = "demo"')))
    assert demo.endpoint == "demo"
    assert demo.store_location == "demo-store"
    real = load_settings(ROOT / DEFAULT_CONFIG)
    assert demo.model_copy(update={"endpoint": HUB}) == real


def test_every_setting_that_exists_is_in_the_file_that_ships_and_its_defaults_are_true():
    lines = (line.removeprefix("# ") for line in (ROOT / DEFAULT_CONFIG).read_text().splitlines())
    shown = tomllib.loads(
        "\n".join(
            line
            for line in lines
            if line.startswith(("[", *"abcdefghijklmnopqrstuvwxyz")) and (" = " in line or line.startswith("["))
        ).replace("[[sources]]", "[[sources]]")
    )
    assert shown.keys() == NightlySettings.model_fields.keys()
    assert shown["limits"] == Limits().model_dump()
    assert {key for source in shown["sources"] for key in source} == {
        "top",
        "sort",
        "filters",
        "author",
        "search",
        "repos",
        "file",
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[sources]]\ntop = 5\n[limits]\nconcurrency = "many"\n', r"line 4: limits\.concurrency: .*'many'"),
        (
            "[[sources]]\ntop = 5\n[limits]\nconcurrency = 0\n",
            r"line 4: limits\.concurrency: .*greater than or equal to 1.*0",
        ),
        ("[[sources]]\ntop = 5\n[limits]\nspeed = 9\n", r"line 4: limits\.speed: no such setting.*9"),
        ("colour = 'red'\n[[sources]]\ntop = 5\n", r"line 1: colour: no such setting"),
        ("[[sources]]\ntop = 5\n\n[[sources]]\ntop = -1\n", r"line 5: sources\.1\.top: .*-1"),
        ("[[sources]]\ntop = 5\nfile = 'x'\n", r"line 1: sources\.0: a source is either"),
        ("[[sources]]\n", r"line 1: sources\.0: a source is either"),
        ("[[sources]]\nrepos = ['a b']\n", r"line 2: sources\.0\.repos\.0: .*'a b'"),
        ("endpoint = 'ftp://x'\n[[sources]]\ntop = 5\n", r"line 1: endpoint: "),
        ("contact = 'x'\n", r"sources: Field required"),
        ("dead_tau = 2.0\n[[sources]]\ntop = 5\n", r"line 1: dead_tau: .*2\.0"),
        ("top = = 5", "not valid TOML"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_its_line(written, text, complaint):
    path = written(text)
    with pytest.raises(SettingsError, match=complaint) as refused:
        load_settings(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("text", [f"x = {'[' * 3000}{']' * 3000}\n", f"{'.'.join('a' * 3000)} = 1\n"])
def test_what_is_nested_deeper_than_python_goes_is_refused(written, text):
    with pytest.raises(SettingsError, match="deep"):
        load_settings(written(f"{text}[[sources]]\ntop = 5\n"))


@pytest.mark.parametrize(
    "line", ["models = true", "models = 1.0", "models = '3'", "timeout_s = true", "timeout_s = nan"]
)
def test_a_number_is_nothing_else_than_a_number(written, line):
    with pytest.raises(SettingsError, match=f"line 2: limits.{line.split()[0]}"):
        load_settings(written(f"[limits]\n{line}\n[[sources]]\ntop = 5\n"))


def test_a_whole_number_will_do_for_a_fraction(written):
    settings = load_settings(
        written("[limits]\ntimeout_s = 30\n[gate]\nmax_failed_fraction = 1\n[[sources]]\ntop = 5\n")
    )
    assert (settings.limits.timeout_s, settings.gate.max_failed_fraction) == (30, 1)


def test_a_fault_inside_a_source_is_one_complaint(written):
    with pytest.raises(SettingsError, match=r"line 2: sources\.0\.top") as refused:
        load_settings(written("[[sources]]\ntop = 0\n"))
    assert len(str(refused.value).splitlines()) == 1


def test_an_endpoint_given_elsewhere_is_not_said_to_stand_in_the_file(written, monkeypatch):
    path = written("[[sources]]\ntop = 5\n")
    with pytest.raises(SettingsError, match=r"^--endpoint: .*, given 'foo'$"):
        load_settings(path, endpoint="foo")
    monkeypatch.setenv("HF_ENDPOINT", "bar")
    with pytest.raises(SettingsError, match=r"^HF_ENDPOINT: .*, given 'bar'$"):
        load_settings(path)


def test_all_that_is_wrong_is_told_at_once(written):
    with pytest.raises(SettingsError) as refused:
        load_settings(written("a = 1\nb = 2\n[[sources]]\ntop = 5\n"))
    assert len(str(refused.value).splitlines()) == 2


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read"):
        load_settings(tmp_path / "nowhere.toml")


def test_the_command_line_wins_over_the_file_and_hf_endpoint_stands_in_for_the_hub(written, monkeypatch):
    path = written("store = 'a'\n[[sources]]\ntop = 5\n")
    assert load_settings(path, store="b").store_location == "b"
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.test")
    assert load_settings(path).endpoint == "http://mirror.test"
    assert load_settings(path, endpoint="demo").endpoint == "demo"


def test_sources_become_queries_and_repos(written, tmp_path):
    (tmp_path / "repos.txt").write_text("org/one  # why\n\n# nothing\norg/two@abc\n")
    path = written(
        "[[sources]]\ntop = 5\nsort = 'created_at'\nfilters = ['safetensors']\n"
        "[[sources]]\nauthor = 'org'\n"
        "[[sources]]\nrepos = ['gpt2', 'org/name@main']\n"
        f"[[sources]]\nfile = '{tmp_path}/repos.txt'\n"
        "[limits]\nworkers = 4\n"
    )
    crawl = crawl_of(load_settings(path))
    assert [(query.top, query.sort, query.author) for query in crawl.queries] == [
        (5, "createdAt", None),
        (None, "downloads", "org"),
    ]
    assert crawl.repos == (("gpt2", None), ("org/name", "main"), ("org/one", None), ("org/two", "abc"))
    assert crawl.share == 0.25


def test_whoever_lists_alone_has_the_whole_limit_and_whoever_audits_a_share(written):
    path = written("runner = 'workers'\n[[sources]]\ntop = 5\n[limits]\nworkers = 4\n")
    settings = load_settings(path)
    assert (crawl_of(settings).share, batch_crawl_of(settings).share) == (1.0, 0.25)
    assert batch_crawl_of(settings) == replace(crawl_of(settings), queries=(), share=0.25)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("runner = 'dask'\n", 'scheduler: .*"dask" needs a scheduler'),
        ("runner = 'dask'\nscheduler = ''\n", "line 2: scheduler: no address of a scheduler, such as tcp"),
        ("runner = 'ray'\nscheduler = 'nonsense'\n", "line 2: scheduler: no address of a scheduler, such as tcp"),
        ("scheduler = 'tcp://x:1'\n", 'line 1: scheduler: .*"threads" takes no scheduler'),
        ("runner = 'workers'\nscheduler = 'x'\n", 'line 2: scheduler: .*"workers" takes no scheduler'),
        ("runner = 'processes'\n", "line 1: runner: .*'processes'"),
    ],
)
def test_a_scheduler_goes_with_the_runners_that_have_one(written, text, complaint):
    with pytest.raises(SettingsError, match=complaint):
        load_settings(written(f"{text}[[sources]]\ntop = 5\n"))


def test_a_line_that_is_no_repo_is_refused_with_its_number(written, tmp_path):
    (tmp_path / "repos.txt").write_text("org/one\nhttps://x/y\n")
    settings = load_settings(written(f"[[sources]]\nfile = '{tmp_path}/repos.txt'\n"))
    with pytest.raises(SettingsError, match=r"repos\.txt, line 2: 'https://x/y' is no repo"):
        crawl_of(settings)


def test_a_token_never_stands_in_settings_nor_in_what_is_shown_of_them(written, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    settings = load_settings(written("[[sources]]\ntop = 5\n"))
    assert crawl_of(settings).hub.token == "hf_secret"
    assert "hf_secret" not in repr(crawl_of(settings)) + repr(settings) + settings.model_dump_json()


def test_a_night_takes_the_store_from_the_command_line_then_the_file_then_the_environment(written, monkeypatch):
    sources = "[[sources]]\ntop = 5\n"
    assert load_settings(written(sources)).store_location == "store"
    monkeypatch.setenv("NORMAUDIT_STORE", "elsewhere")
    assert load_settings(written(sources)).store_location == "elsewhere"
    assert load_settings(written(f"store = 'here'\n{sources}")).store_location == "here"
    assert load_settings(written(f"store = 'here'\n{sources}"), store="there").store_location == "there"


def test_the_demo_never_writes_into_the_store_of_the_environment(written, monkeypatch):
    monkeypatch.setenv("NORMAUDIT_STORE", "elsewhere")
    assert load_settings(written("[[sources]]\ntop = 5\n"), endpoint="demo").store_location == "demo-store"
    assert load_settings(written("endpoint = 'demo'\n[[sources]]\ntop = 5\n")).store_location == "demo-store"


def test_reading_commands_find_the_store_by_variable_then_here_then_the_demos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_store() == "store"
    (tmp_path / "demo-store").mkdir()
    assert default_store() == "demo-store"
    (tmp_path / "store").mkdir()
    assert default_store() == "demo-store"  # a night that failed has left a folder, and nothing in it
    (tmp_path / "store" / "parts").mkdir()
    assert default_store() == "store"
    monkeypatch.setenv("NORMAUDIT_STORE", "elsewhere")
    assert default_store() == "elsewhere"
