"""What a tether runs ends with the tether's parent, however that dies, and takes all of its own along."""

import signal
import subprocess
import sys

import pytest

from tests.nights import ROOT
from tests.test_engine import is_alive, wait_for

# A command whose child has left its session, as Prefect's flow runs may; it can be made to ignore the polite signal.
FAMILY = """
import signal, subprocess, sys, time
code = "import signal, time; signal.signal(15, signal.{on_term}); print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
{then}
"""
PARENT = """
import subprocess, sys, time
tether = subprocess.Popen([sys.executable, "-m", "flows.tether", sys.executable, "-c", {family!r}],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
print(tether.pid, tether.stdout.readline().decode().strip(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("how", "on_term"), [(signal.SIGKILL, "SIG_IGN"), (signal.SIGTERM, "SIG_DFL")])
def test_what_is_tethered_ends_with_the_parent_however_that_dies(how, on_term):
    code = PARENT.format(family=FAMILY.format(on_term=on_term, then="time.sleep(600)"))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        tether, grandchild = map(int, parent.stdout.readline().split())
        assert is_alive(grandchild)
        parent.send_signal(how)
        parent.wait()
        wait_for(lambda: not is_alive(tether) and not is_alive(grandchild))


def test_a_command_that_ends_by_itself_leaves_no_child_behind_and_its_status_is_told():
    family = FAMILY.format(on_term="SIG_DFL", then="sys.exit(7)")
    command = [sys.executable, "-m", "flows.tether", sys.executable, "-c", family]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as tether:
        grandchild = int(tether.stdout.readline())
        assert tether.wait(60) == 7
        assert not is_alive(grandchild)


def test_a_tether_waits_for_nobody_who_is_not_its_own():
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        command = [sys.executable, "-m", "flows.tether", sys.executable, "-c", "pass"]
        subprocess.run(command, stdin=subprocess.PIPE, cwd=ROOT, check=True, timeout=60)
        assert is_alive(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()
