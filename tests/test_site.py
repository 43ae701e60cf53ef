"""The site: what its files hold, that nothing in them is markup from outside, and how its folder is replaced."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.records import Status
from tasks.site import COLUMNS, STATUSES, Edition, figure, publish, render, site_files, write_site
from tests.test_cli import ROOT

MADE = datetime(2026, 11, 2, 3, 4, tzinfo=UTC)
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>' javascript:alert(1) {{ 7*7 }} \x1b[31m\u202e"


def row(repo_id="org/a", **facts):
    return {
        "repo_id": repo_id,
        "downloads": 1234,
        "kind": "layernorm",
        "parameterisation": "plain",
        "hidden_size": 768,
        "predicted_dead_dim": 1,
        "participation_fraction": 0.51234,
        "top_share": 0.0421,
        "condition_number": 12.34,
        "confidence": 0.99,
        "audited_at": MADE,
        **facts,
    }


def edition(*rows, coverage=({"status": "ok", "models": 1},), **facts):
    return Edition(rows, coverage, MADE, 1, **facts)


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(source.decode() if isinstance(source, bytes) else source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page(*rows, **facts):
    return Page(site_files(edition(*rows, **facts))["index.html"])


def test_a_site_is_one_page_and_three_files_of_the_same_rows():
    files = site_files(edition(row("org/a"), row("org/b", downloads=5)))
    assert sorted(files) == ["index.html", "leaderboard.csv", "leaderboard.json", "leaderboard.md"]
    assert all(name in content for content in files.values() for name in (b"org/a", b"org/b"))
    names = [column.name for column in COLUMNS]
    assert next(csv.reader(io.StringIO(files["leaderboard.csv"].decode()))) == names
    assert list(json.loads(files["leaderboard.json"])["models"][0]) == names


def test_each_field_of_a_hostile_row_is_text_and_nothing_else():
    calm = page(row(), hub_url="https://hub.example")
    names = ("repo_id", "kind", "parameterisation", "probe_verdict")
    wild = page(row(**dict.fromkeys(names, HOSTILE)), coverage=[{"status": HOSTILE, "models": 1}],
                hub_url="https://hub.example")  # fmt: skip
    allowed = {tag for tag, _ in calm.tags} | {"span"}
    assert {tag for tag, _ in wild.tags} <= allowed
    assert len(wild.named("script")) == 1
    assert not [attrs for _, attrs in wild.tags if any(name.startswith("on") for name in attrs)]
    assert all(link["href"].startswith(("https://hub.example/", "https://arxiv.org/", "leaderboard."))
               for link in wild.named("a"))  # fmt: skip
    shown = "".join(wild.texts)
    assert "alert(1)</script>" in shown
    assert "{{ 7*7 }}" in shown
    assert "\x1b" not in shown


@given(st.text())
def test_no_repo_name_can_add_a_tag_to_the_page(name):
    assert [tag for tag, _ in page(row(name)).tags] == [tag for tag, _ in page(row("org/a")).tags]


@given(st.text())
def test_no_repo_name_can_add_a_row_or_column_to_the_csv_or_the_markdown(name):
    files = site_files(edition(row(name)))
    rows = list(csv.reader(io.StringIO(files["leaderboard.csv"].decode(), newline="")))
    assert [len(cells) for cells in rows] == [len(COLUMNS)] * 2
    lines = [line for line in files["leaderboard.md"].decode().split("\n") if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in lines] == [len(COLUMNS) + 1] * 3


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_begins_a_formula(start):
    text = site_files(edition(row(f"{start}cmd|' /C calc'!A0", condition_number=-1.0)))["leaderboard.csv"].decode()
    [found] = csv.DictReader(io.StringIO(text, newline=""))
    assert not found["repo_id"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert found["repo_id"].endswith("cmd|' /C calc'!A0")
    assert found["condition_number"] == "-1.0", "numbers stay numbers"


def test_the_json_holds_no_nan_and_names_every_column():
    text = site_files(edition(row(condition_number=float("inf"), top_share=float("nan"))))["leaderboard.json"]
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["models"][0]["condition_number"] is found["models"][0]["top_share"] is None
    assert set(found["columns"]) == {column.name for column in COLUMNS}
    assert (found["coverage"], found["method_version"]) == ({"ok": 1}, 1)
    assert datetime.fromisoformat(found["made_at"]) == MADE


def test_every_status_and_every_column_is_explained():
    assert set(get_args(Status)) <= set(STATUSES)
    assert all(column.says for column in COLUMNS)
    full = page(row(probe_verdict="present", alignment=1.0, preserved=True), coverage=[
        {"status": status, "models": 1} for status in STATUSES])  # fmt: skip
    text = "".join(full.texts)
    assert all(column.says in text for column in COLUMNS)
    assert all(says in text for says in STATUSES.values())


def test_columns_that_are_empty_for_every_model_are_left_out_of_the_page():
    headings = [text for text in page(row()).texts if text in {column.heading for column in COLUMNS}]
    assert "probe" not in headings
    assert "probe" in page(row(probe_verdict="absent")).texts


def test_the_page_asks_the_network_for_nothing():
    found = page(row(), hub_url="https://hub.example")
    assert not [attrs for _, attrs in found.tags if "src" in attrs]
    assert not found.named("link")
    assert not found.named("img")
    policy = next(meta["content"] for meta in found.named("meta") if meta.get("http-equiv"))
    assert "default-src 'none'" in policy
    source = site_files(edition(row()))["index.html"].decode()
    assert "@import" not in source
    assert "url(" not in source


def test_a_repo_is_linked_only_where_the_hub_has_pages():
    assert {"href": "https://hub.example/org/a%3Fb", "rel": "nofollow noopener"} in page(
        row("org/a?b"), hub_url="https://hub.example").named("a")  # fmt: skip
    assert all(not link["href"].startswith("http") or "arxiv" in link["href"] for link in page(row()).named("a"))


def test_a_site_without_models_says_so():
    files = site_files(edition(coverage=()))
    assert "No public model" in files["index.html"].decode()
    assert "none yet" in files["leaderboard.md"].decode()
    assert json.loads(files["leaderboard.json"])["models"] == []


def test_a_long_page_is_cut_and_says_where_the_rest_is():
    rows = [row(f"org/m{i}") for i in range(render.PAGE_ROWS + 2)]
    files = site_files(edition(*rows))
    html, last = files["index.html"].decode(), f"org/m{render.PAGE_ROWS + 1}"
    assert html.count('class="repo"') == render.PAGE_ROWS
    assert f"{len(rows):,}" in html
    assert "the files hold all" in html
    assert "2 more models are in leaderboard.csv" in files["leaderboard.md"].decode()
    assert last in files["leaderboard.csv"].decode()
    assert last in files["leaderboard.json"].decode()


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (None, 3, "–"),
        (True, None, "yes"),
        (98_205_417, None, "98,205,417"),
        (0.5, 3, "0.500"),
        (0.0, 3, "0.000"),
        (1234.56, 1, "1,234.6"),
        (1.7e32, 1, "1.7e+32"),
        (3.2e-7, 4, "3.2e-07"),
        (0.12345, None, "0.123"),
        (MADE, None, "2026-11-02"),
        ("a\nb", None, "a\\nb"),
    ],
)
def test_a_figure_is_written_as_people_read_it(value, decimals, text):
    assert figure(value, decimals) == text


def files_of(number):
    return {name: f"edition {number}".encode() for name in ("index.html", "leaderboard.json")}


def test_the_folder_is_replaced_whole_and_leaves_nothing_beside(tmp_path):
    write_site(tmp_path / "deep" / "site", {**files_of(1), "old.html": b""})
    write_site(tmp_path / "deep" / "site", files_of(2))
    assert {path.name: path.read_bytes() for path in (tmp_path / "deep" / "site").iterdir()} == files_of(2)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["site"]


def test_a_reader_finds_a_site_at_every_moment(tmp_path):
    site = tmp_path / "site"
    write_site(site, files_of(0))
    if not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange two folders in one step")
    missing, ended = [], threading.Event()

    def read():
        while not ended.is_set():
            try:
                (site / "index.html").read_bytes()
            except FileNotFoundError as error:
                missing.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        write_site(site, files_of(number))
    ended.set()
    reader.join()
    assert missing == []


def can_exchange(folder):
    for name in ("one", "other"):
        (folder / name).mkdir()
    return publish._exchange(folder / "one", folder / "other")


def test_where_two_folders_cannot_be_exchanged_one_replaces_the_other(tmp_path):
    for name in ("aside", "site"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text(name)
    publish._replace_in_two_steps(tmp_path / "aside", tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text() == "aside"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_when_the_new_folder_is_gone_the_old_one_comes_back(tmp_path):
    (tmp_path / "site").mkdir()
    with pytest.raises(OSError, match="aside"):
        publish._replace_in_two_steps(tmp_path / "aside", tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_killed_at_any_moment_the_folder_holds_one_whole_edition(tmp_path):
    site = tmp_path / "site"
    write_site(site, files_of(0))
    if not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange two folders in one step")
    code = (
        "import itertools, sys; from pathlib import Path; from tasks.site.publish import write_site\n"
        "for i in itertools.count(): write_site(Path(sys.argv[1]), {n: b'edition %d' % i for n in sys.argv[2:]})"
    )
    for _ in range(4):
        before = (site / "index.html").stat().st_ino
        writer = subprocess.Popen([sys.executable, "-c", code, str(site), *files_of(0)], cwd=ROOT)
        while (site / "index.html").stat().st_ino == before:
            assert writer.poll() is None
            time.sleep(0.005)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        contents = {path.name: path.read_bytes() for path in site.iterdir()}
        assert set(contents) == set(files_of(0))
        assert len(set(contents.values())) == 1


def test_what_killed_writers_left_is_swept_after_a_while(tmp_path):
    left, recent = tmp_path / ".site-left", tmp_path / ".site-recent"
    for folder in (left, recent):
        folder.mkdir()
        (folder / "index.html").write_text("half")
    os.utime(left, (0, 0))
    write_site(tmp_path / "site", files_of(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".site-recent", "site"]


def test_a_file_in_place_of_the_folder_stays(tmp_path):
    (tmp_path / "site").write_text("mine")
    with pytest.raises(NotADirectoryError):
        write_site(tmp_path / "site", files_of(1))
    assert (tmp_path / "site").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_link_keeps_pointing_at_the_folder_whose_content_is_replaced(tmp_path):
    (tmp_path / "www").mkdir()
    (tmp_path / "site").symlink_to("www")
    write_site(tmp_path / "site", files_of(1))
    assert (tmp_path / "site").is_symlink()
    assert (tmp_path / "www" / "index.html").read_bytes() == b"edition 1"


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    """Return a function that runs a script in the page in a browser, and gives what it returned."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    rows = [
        row("org/b", downloads=5, kind="rmsnorm"),
        row("org/c", downloads=4, top_share=None),
        row("org/a", downloads=3),
    ]
    source = site_files(edition(*rows))["index.html"].decode()

    def run(script):
        folder = tmp_path_factory.mktemp("page")
        result = f"<script>document.title = JSON.stringify((() => {{ {script} }})())</script>"
        (folder / "index.html").write_text(source.replace("</body>", f"{result}</body>"))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
        command = [CHROMIUM, *flags, (folder / "index.html").as_uri()]
        dumped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return json.loads(re.search(r"<title>(.*?)</title>", dumped)[1])

    return run


NAMES = 'return [...document.querySelectorAll("tbody tr")].filter(r => !r.hidden).map(r => r.cells[0].textContent);'
HEAD = "const head = name => [...document.querySelectorAll('th')].find(h => h.textContent === name).firstElementChild;"


@pytest.mark.browser
def test_in_a_browser_columns_sort_both_ways_with_the_unknown_last(browsed):
    assert browsed(f"{HEAD} head('repo').click(); {NAMES}") == ["org/a", "org/b", "org/c"]
    assert browsed(f"{HEAD} head('repo').click(); head('repo').click(); {NAMES}") == ["org/c", "org/b", "org/a"]
    assert browsed(f"{HEAD} head('downloads').click(); {NAMES}") == ["org/a", "org/c", "org/b"]
    for clicks in ("head('top share').click();", "head('top share').click(); head('top share').click();"):
        assert browsed(f"{HEAD} {clicks} {NAMES}")[-1] == "org/c"


@pytest.mark.browser
def test_in_a_browser_the_filter_takes_all_of_its_words(browsed):
    typed = (
        'const f = document.getElementById("filter"); f.value = "RMSnorm  org/"; f.dispatchEvent(new Event("input"));'
    )
    assert browsed(f"{typed} {NAMES}") == ["org/b"]
    assert browsed(f'{typed} return document.getElementById("shown").textContent;') == "1"
