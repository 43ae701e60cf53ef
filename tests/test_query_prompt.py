"""The prompt of `normaudit sql` on a terminal, and how queries that take long are ended."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command import ROOT, normaudit, process

pytestmark = pytest.mark.usefixtures("own_home")  # no test here reads a store that the environment names


class Terminal:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, *arguments):
        self.ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams)
        os.close(theirs)
        self.seen = ""

    def read(self):
        """Add to `seen` what comes within a moment; return False once nothing can come any more."""
        if not select.select([self.ours], [], [], 0.1)[0]:
            return True
        try:
            said = os.read(self.ours, 65536)
        except OSError:  # EIO: how Linux tells that whoever had the terminal is gone
            return False
        self.seen += said.decode(errors="replace")
        return bool(said)

    def until(self, text, timeout_s=60):
        """Read until text has come since the last call; return what came."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            assert self.read(), f"the command ended before it said {text!r}: {self.seen}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def insist(self, action, ends):
        """Do an action once a second until it has worked, as a person does.

        Python misses a Ctrl-C that comes between its looking for one and its waiting, and handles it a line later.
        """
        for _ in range(60):
            action()
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                self.read()
                if ends():
                    self.seen = ""
                    return
        pytest.fail(self.seen)

    def type(self, text):
        os.write(self.ours, text.encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


def test_the_prompt_answers_survives_errors_and_ctrl_c_and_ends_with_ctrl_d(ranked_store):
    with Terminal("sql", "--store", ranked_store, "--format", "csv") as terminal:
        terminal.until("normaudit> ")
        terminal.type("SELECT repo_id FROM leaderboard ORDER BY 1 LIMIT 1;\n")
        assert "org/a" in terminal.until("normaudit> ")
        terminal.type("SELECT nothing FROM latest\n")
        assert "nothing" in terminal.until("normaudit> ").replace("SELECT nothing", "", 1)
        terminal.type("SELECT half")
        terminal.until("half")
        terminal.insist(lambda: terminal.process.send_signal(signal.SIGINT), lambda: "normaudit> " in terminal.seen)
        terminal.insist(lambda: terminal.type("SELECT 6 * 7 AS answer\n"), lambda: "42" in terminal.seen)
        terminal.insist(lambda: terminal.type("\x04"), lambda: terminal.process.poll() is not None)
        assert terminal.process.returncode == 0


ENDLESS = "SELECT count(*) FROM range(3000000) a, range(3000000) b WHERE hash(a.range, b.range) = 1"


def test_ctrl_c_drops_a_long_query_and_the_prompt_stays(ranked_store):
    with Terminal("sql", "--store", ranked_store, "--timeout", 60) as terminal:
        terminal.until("normaudit> ")
        terminal.type(f"{ENDLESS}\n")
        terminal.until("= 1\r\n")
        await_work(terminal.process)
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("normaudit> ")
        terminal.type("quit\n")
        assert terminal.process.wait(60) == 0


def test_ctrl_c_ends_a_long_query_with_status_130(ranked_store):
    with process("sql", ENDLESS, "--store", ranked_store, "--timeout", 60, start_new_session=True) as run:
        await_work(run)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 130, err
    assert "Traceback" not in err


def test_a_query_that_takes_too_long_is_given_up_with_one_line(ranked_store):
    run = normaudit("sql", ENDLESS, "--store", ranked_store, "--timeout", 1)
    assert run.exit_code == 2
    assert run.stderr == "normaudit: given up after 1 s; narrow the query, or raise --timeout\n"


def test_ctrl_c_ends_a_ranking_by_an_endless_condition(ranked_store):
    with process("leaderboard", "--where", f"downloads < ({ENDLESS})", "--store", ranked_store) as run:
        await_work(run)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 130, err
    assert "Traceback" not in err


def await_work(process):
    """Wait until a process has threads that have computed for longer than it takes to start."""
    stat = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + 60
    while process.poll() is None and used_s(stat) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def used_s(stat):
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
