"""How results look: as a table, CSV, JSON, Markdown and Parquet, on terminals, in pipes and in files."""

import csv
import io
import json
import math
import os
import pty
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import output, results
from flows.output import UsageError, json_line
from flows.results import write_result

ODD = """
SELECT 'x''"a,b' AS text, NULL AS nothing, 1.5::DOUBLE AS number, 'nan'::DOUBLE AS nan, '-inf'::DOUBLE AS below,
    '\\x00\\xFF'::BLOB AS bytes, [1.5, NULL] AS list, MAP {'1e-08': 3, '1e-04': 1} AS map, {'a': 1, 'b': 'c'} AS struct,
    TIMESTAMPTZ '2026-11-01 03:04:05+00' AS moment, DATE '2026-11-01' AS day, sum(i) AS total,
    2.50::DECIMAL(9, 2) AS price, sum(i) > 1 AS truth, INTERVAL 90 MINUTE AS pause,
    18446744073709551615::UBIGINT AS unsigned
FROM range(3) AS t(i)
"""


def result(sql):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(sql).to_arrow_table()


def written(found, wanted, tmp_path):
    file = tmp_path / f"result.{wanted}"
    write_result(found, wanted, file)
    return file.read_text()


def strictly(text):
    return json.loads(text, parse_constant=pytest.fail)


def test_json_keeps_every_type_and_holds_neither_nan_nor_infinity(tmp_path):
    assert strictly(written(result(ODD), "json", tmp_path)) == {
        "text": "x'\"a,b",
        "nothing": None,
        "number": 1.5,
        "nan": None,
        "below": None,
        "bytes": "00ff",
        "list": [1.5, None],
        "map": {"1e-08": 3, "1e-04": 1},
        "struct": {"a": 1, "b": "c"},
        "moment": "2026-11-01T03:04:05+00:00",
        "day": "2026-11-01",
        "total": 3,
        "price": 2.5,
        "truth": True,
        "pause": "P0M0DT5400S",
        "unsigned": 2**64 - 1,
    }


def test_csv_holds_numbers_in_full_and_lists_and_maps_as_json(tmp_path):
    text = written(result(ODD), "csv", tmp_path)
    [row] = csv.DictReader(io.StringIO(text))
    assert row["text"] == "x'\"a,b"
    assert row["nothing"] == ""
    assert row["bytes"] == "00ff"
    assert json.loads(row["list"]) == [1.5, None]
    assert json.loads(row["map"]) == {"1e-08": 3, "1e-04": 1}
    assert datetime.fromisoformat(row["moment"]) == datetime(2026, 11, 1, 3, 4, 5, tzinfo=UTC)
    assert (row["total"], row["price"], row["truth"], row["day"]) == ("3", "2.50", "true", "2026-11-01")
    assert math.isnan(float(row["nan"]))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_every_text_comes_through_csv_as_it_was(texts):
    lines = "".join(results._csv(pa.table({"text": texts, "n": range(len(texts))})))
    assert [row["text"] for row in csv.DictReader(io.StringIO(lines, newline=""))] == texts


def test_a_table_shows_every_type_in_a_line(tmp_path):
    lines = written(result(ODD), "table", tmp_path).splitlines()
    assert len(lines) == 3
    for cell in ("00ff", '{"1e-08":3,"1e-04":1}', "2026-11-01 03:04", "18,446,744,073,709,551,615", "yes", "2.5"):
        assert cell in lines[2]


def test_numbers_stand_to_the_right_and_words_to_the_left(tmp_path):
    found = result("SELECT * FROM (VALUES ('a', 5, 1.5), ('bcd', 12345, NULL)) AS t(word, count, figure)")
    assert written(found, "table", tmp_path).splitlines()[2:] == ["a           5      1.5", "bcd    12,345        –"]


@pytest.mark.parametrize("wanted", ["csv", "json", "table", "markdown"])
def test_no_rows_are_no_error(tmp_path, wanted):
    found = result("SELECT 1 AS a WHERE false")
    assert (
        len(written(found, wanted, tmp_path).splitlines()) == {"csv": 1, "json": 0, "table": 2, "markdown": 2}[wanted]
    )


@pytest.mark.parametrize("wanted", ["csv", "json", "table", "markdown", "parquet"])
def test_columns_of_the_same_name_are_all_kept(tmp_path, wanted):
    found = result("SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a")
    write_result(found, wanted, tmp_path / "file")
    if wanted == "parquet":
        assert pq.read_table(tmp_path / "file").to_pylist() == [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]
    else:
        text = (tmp_path / "file").read_text().replace("\\", "")
        assert all(name in text for name in ("a_1", "a_2", "a_3"))
        assert all(value in text for value in "1234")


def test_parquet_keeps_the_types(tmp_path):
    found = result("SELECT [1.5::FLOAT] AS gamma, TIMESTAMPTZ '2026-11-01 03:04:05+00' AS moment, 'x' AS name")
    write_result(found, "parquet", tmp_path / "x.parquet")
    assert pq.read_schema(tmp_path / "x.parquet").types == found.schema.types


def sent_to_a_terminal(monkeypatch, action):
    """Do the action with a terminal as stdout; return what the terminal was sent."""
    ours, theirs = pty.openpty()
    with monkeypatch.context() as patch, os.fdopen(theirs, "w") as stdout:
        patch.setattr("sys.stdout", stdout)
        action()
        print("END", flush=True)
        sent = ""
        while "END" not in sent:
            sent += os.read(ours, 65536).decode()
    os.close(ours)
    return sent.replace("\r\n", "\n").partition("END")[0]


def test_parquet_is_not_written_to_a_terminal(monkeypatch):
    def write():
        with pytest.raises(UsageError, match="--output"):
            write_result(result("SELECT 1"), "parquet")

    assert sent_to_a_terminal(monkeypatch, write) == ""


@pytest.mark.parametrize("wanted", ["csv", "json", "table", "markdown"])
def test_a_terminal_is_sent_nothing_from_the_store_that_it_would_obey(monkeypatch, wanted):
    found = pa.table({"\x1b[31m": ["\x1b[32m\x9b33m\u202ex", None], "b": [1, 2]})
    sent = sent_to_a_terminal(monkeypatch, lambda: write_result(found, wanted))
    assert "202e" in sent
    assert not {"\x1b[31m", "\x1b[32m", "\x9b", "\u202e"} & {sent[i : i + n] for i in range(len(sent)) for n in (1, 5)}


@pytest.mark.parametrize("target", ["full", "no/such/folder/x.csv", "."])
@pytest.mark.parametrize("wanted", ["csv", "json", "table", "parquet"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch, wanted, target):
    monkeypatch.chdir(tmp_path)
    Path("full").symlink_to("/dev/full")
    with pytest.raises(UsageError, match="cannot be written"):
        write_result(result("SELECT range AS x FROM range(2000)"), wanted, Path(target))
    assert Path("full").is_char_device(), "what could not be written is still there"


def test_a_plan_is_drawn_in_lines(tmp_path):
    lines = written(result("EXPLAIN SELECT 1"), "table", tmp_path).splitlines()
    assert len(lines) > 3
    assert not any("\\n" in line for line in lines)


def test_markdown_cells_hold_no_markup(capsys):
    hostile = "<script>|[x](javascript:alert)*_`~~ https://evil.example &lt;"
    results.print_ranking(pa.table({"repo_id": [hostile]}), markdown=True)
    row = capsys.readouterr().out.splitlines()[2]
    for piece in ("<script>", "|[", "https://", "~~", "_`"):
        assert piece not in row
    assert r"\<script\>\|\[x\](javascript:alert)" in row


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda some: st.lists(some, max_size=3)))
def test_a_json_line_is_one_printable_line_that_reads_back(value):
    line = json_line({"x": value})
    assert line[-1] == "\n"
    assert line[:-1].isprintable()
    assert strictly(line) == {"x": without_nonfinite(value)}


def without_nonfinite(value):
    if isinstance(value, list):
        return [without_nonfinite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(st.lists(st.sampled_from(["a", "a_1", "a_2", "b"])))
def test_distinct_names_are_distinct_and_lone_ones_stay(names):
    found = results._distinct(names)
    assert len(set(found)) == len(names)
    assert all(given == name for given, name in zip(names, found, strict=True) if names.count(given) == 1)


@given(st.text())
def test_an_error_is_one_printable_line(text):
    assert output.one_line(ValueError(text)).isprintable()


def test_an_error_of_duckdb_is_told_without_the_statement():
    with duckdb.connect() as connection, pytest.raises(duckdb.Error) as caught:
        connection.sql("SELECT nothing FROM range(3)")
    line = output.one_line(caught.value)
    assert "nothing" in line
    assert "LINE 1" not in line
