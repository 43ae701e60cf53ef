"""The site's folder is replaced whole, whatever else lies there and whoever is killed meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tasks.site import publish, write_site
from tests.command import ROOT


def files_of(number):
    return {name: (f"edition {number}".encode(),) for name in ("index.html", "leaderboard.json")}


def test_the_folder_is_replaced_whole_and_leaves_nothing_beside(tmp_path):
    write_site(tmp_path / "deep" / "site", {**files_of(1), "old.html": ()})
    write_site(tmp_path / "deep" / "site", files_of(2))
    assert {path.name: path.read_bytes() for path in (tmp_path / "deep" / "site").iterdir()} == {
        name: b"edition 2" for name in files_of(2)
    }
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
        "for i in itertools.count(): write_site(Path(sys.argv[1]), {n: (b'edition %d' % i,) for n in sys.argv[2:]})"
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
    left, older, recent = (tmp_path / f".site-{name}" for name in ("0" * 32, f"{'1' * 32}-old", "2" * 32))
    users = tmp_path / ".site-backup"
    for folder in (left, older, recent, users):
        folder.mkdir()
        (folder / "index.html").write_text("half")
        os.utime(folder, None if folder is recent else (0, 0))
    write_site(tmp_path / "site", files_of(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([users.name, recent.name, "site"])


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
