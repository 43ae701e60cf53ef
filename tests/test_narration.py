"""How far a night is, as one line."""

import io
import logging

import pytest
from rich.console import Console

from flows import output
from flows.narration import LINE_EVERY_S, Tally, narrated
from tasks.hub.quota import Quota


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def quota(left, resets_in_s=200.0, limit=1_000):
    return Quota(limit, 300.0, 1.0, left, resets_in_s)


def test_a_line_tells_count_speed_quota_and_what_is_left():
    clock = Clock()
    tally = Tally(clock, planned=1_000)
    tally.count(1, 1, quota(999))
    clock.now += 10
    tally.count(99, 99, quota(900, 190))
    assert tally.line() == "audited 100 of 1,000, 10 models/s, 900 requests left for 3 min 10 s, 1 min 30 s to go"


def test_where_the_quota_will_hold_a_night_up_it_decides_what_is_left():
    clock = Clock()
    tally = Tally(clock, planned=4_000)
    tally.count(0, 0, None)
    clock.now += 100
    tally.count(1_000, 1_000, quota(0, 200))
    assert tally.line().endswith("0 requests left for 3 min 20 s, 18 min 20 s to go")  # 200 s, then three windows


def test_the_time_to_the_next_window_goes_down_while_nothing_is_audited():
    clock = Clock()
    tally = Tally(clock, planned=10)
    tally.count(5, 5, quota(0, 200))
    clock.now += 50
    assert "0 requests left for 2 min 30 s" in tally.line()


def test_a_hub_without_quotas_and_a_night_of_unknown_size_are_told_as_far_as_known():
    clock = Clock()
    tally = Tally(clock)
    tally.count(3, 3, None)
    assert tally.line() == "audited 3"


def audited(count):
    logging.getLogger("normaudit").info("x", extra={"audited": count, "hub_requests": count, "quota": quota(900)})


@pytest.fixture
def stream(monkeypatch):
    found = io.StringIO()
    monkeypatch.setattr(output, "messages", lambda: Console(file=found, soft_wrap=True, highlight=False))
    return found


def test_a_log_gets_a_line_now_and_then(stream):
    clock = Clock()
    with narrated(clock):
        logging.getLogger("normaudit").info("planned 1,000", extra={"planned": 1_000})
        for _ in range(100):
            audited(1)
        assert stream.getvalue() == "normaudit: planned 1,000\n"
        clock.now += LINE_EVERY_S
        audited(1)
        audited(1)
    [_, line] = stream.getvalue().splitlines()
    assert line.startswith("normaudit: audited 101 of 1,000, 1.68 models/s, 900 requests left")


def test_a_terminal_gets_one_line_that_keeps_up(monkeypatch):
    clock, found = Clock(), io.StringIO()
    terminal = Console(file=found, force_terminal=True, width=150, soft_wrap=True, highlight=False)
    monkeypatch.setattr(output, "messages", lambda: terminal)
    with narrated(clock):
        logging.getLogger("normaudit").info("listed 2,000 repos", extra={"listed": 2_000})
        logging.getLogger("normaudit").info("planned", extra={"planned": 10})
        audited(4)
        clock.now += 1_000
        audited(1)
    shown = found.getvalue()
    assert "audited 5 of 10" in shown
    assert shown.count("normaudit: audited") == 0  # no line of its own in the scroll
