"""The site in a browser: its tables sort and filter."""

import json
import re
import shutil
import subprocess

import pytest

from tests.editions import edition, rendered, row

pytestmark = pytest.mark.browser
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
    source = rendered(edition(*rows))["index.html"].decode()

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


def test_in_a_browser_columns_sort_both_ways_with_the_unknown_last(browsed):
    assert browsed(f"{HEAD} head('repo').click(); {NAMES}") == ["org/a", "org/b", "org/c"]
    assert browsed(f"{HEAD} head('repo').click(); head('repo').click(); {NAMES}") == ["org/c", "org/b", "org/a"]
    assert browsed(f"{HEAD} head('downloads').click(); {NAMES}") == ["org/a", "org/c", "org/b"]
    for clicks in ("head('top share').click();", "head('top share').click(); head('top share').click();"):
        assert browsed(f"{HEAD} {clicks} {NAMES}")[-1] == "org/c"


def test_in_a_browser_the_filter_takes_all_of_its_words(browsed):
    typed = (
        'const f = document.getElementById("filter"); f.value = "RMSnorm  org/"; f.dispatchEvent(new Event("input"));'
    )
    assert browsed(f"{typed} {NAMES}") == ["org/b"]
    assert browsed(f'{typed} return document.getElementById("shown").textContent;') == "1"
