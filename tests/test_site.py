"""The site: what its files hold, and that nothing in them is markup from outside."""

import csv
import io
import json
import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from typing import get_args

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.records import Status
from tasks.site import COLUMNS, STATUSES, figure, render
from tests.editions import MADE, edition, rendered, row

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>' javascript:alert(1) {{ 7*7 }} \x1b[31m\u202e"


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
    return Page(rendered(edition(*rows, **facts))["index.html"])


def test_a_site_is_one_page_and_three_files_of_the_same_rows():
    files = rendered(edition(row("org/a"), row("org/b", downloads=5)))
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
    files = rendered(edition(row(name)))
    rows = list(csv.reader(io.StringIO(files["leaderboard.csv"].decode(), newline="")))
    assert [len(cells) for cells in rows] == [len(COLUMNS)] * 2
    lines = [line for line in files["leaderboard.md"].decode().split("\n") if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in lines] == [len(COLUMNS) + 1] * 3


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_begins_a_formula(start):
    text = rendered(edition(row(f"{start}cmd|' /C calc'!A0", condition_number=-1.0)))["leaderboard.csv"].decode()
    [found] = csv.DictReader(io.StringIO(text, newline=""))
    assert not found["repo_id"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert found["repo_id"].endswith("cmd|' /C calc'!A0")
    assert found["condition_number"] == "-1.0", "numbers stay numbers"


def test_the_json_holds_no_nan_and_names_every_column():
    text = rendered(edition(row(condition_number=float("inf"), top_share=float("nan"))))["leaderboard.json"]
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
    source = rendered(edition(row()))["index.html"].decode()
    assert "@import" not in source
    assert "url(" not in source


def test_a_repo_is_linked_only_where_the_hub_has_pages():
    assert {"href": "https://hub.example/org/a%3Fb", "rel": "nofollow noopener"} in page(
        row("org/a?b"), hub_url="https://hub.example").named("a")  # fmt: skip
    assert all(not link["href"].startswith("http") or "arxiv" in link["href"] for link in page(row()).named("a"))


def test_a_site_without_models_says_so():
    files = rendered(edition(coverage=()))
    assert "No public model" in files["index.html"].decode()
    assert "none yet" in files["leaderboard.md"].decode()
    assert json.loads(files["leaderboard.json"])["models"] == []


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_files_hold_every_row_however_the_ranking_is_cut_into_pieces(count):
    whole = edition(*(row(f"org/m{i}") for i in range(count)))
    pieces = [whole.ranking[:0], *(whole.ranking[i : i + 1] for i in range(count)), whole.ranking[:0]]
    files = rendered(replace(whole, ranking=pa.concat_tables(pieces)))
    names = [f"org/m{i}" for i in range(count)]
    assert [found["repo_id"] for found in json.loads(files["leaderboard.json"])["models"]] == names
    assert [found["repo_id"] for found in csv.DictReader(io.StringIO(files["leaderboard.csv"].decode()))] == names


def test_a_long_page_is_cut_and_says_where_the_rest_is():
    rows = [row(f"org/m{i}") for i in range(render.PAGE_ROWS + 2)]
    files = rendered(edition(*rows))
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
