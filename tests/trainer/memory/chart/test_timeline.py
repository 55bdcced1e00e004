"""The page needs nothing but itself, says the numbers, and lets no name out of its place."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import accumulate

import pytest

from galore.trainer.memory.chart.curve import curve
from galore.trainer.memory.chart.timeline import page
from galore.trainer.memory.profile import Profile
from galore.trainer.memory.trace.trace import Allocation, Trace

MIB = 2**20
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&{{data}}\u2028"


def data_of(html):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1]
    assert not {"<", ">", "&", "\u2028"} & set(text)
    return json.loads(text)


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found, self.attributes, self.said = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.said.append(data)


def test_it_needs_nothing_but_itself(profile):
    html = page(profile, "a run")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bfetch\(|XMLHttpRequest|\bimport\b", html.replace("// ", ""))
    tags = Tags(html)
    assert not {"src", "href", "srcset", "data"} & {name for name, _ in tags.attributes}
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(tags.found)
    assert "default-src 'none'" in html
    assert "{{" not in html


def test_it_says_the_numbers_without_javascript(profile):
    text = re.sub(
        r"\s+", " ", " ".join(Tags(re.sub(r"<script.*?</script>", "", page(profile, "a run"), flags=re.S)).said)
    )
    assert "Fits." in text
    assert "weights parameters and buffers of the model 8.00 3.1 %" in text
    assert "activations kept by the forward for the backward 4.00 1.6 %" in text
    assert f"total {profile.total.high / MIB:.2f}" in text
    assert "first step: backward" in text
    assert "first step: backward, in model.layers.1.mlp mm" in text
    assert "Test <GPU> & Co" in text
    assert "evaluation 9.00" in text


def test_hostile_names_stay_text(card):
    trace = Trace()
    trace.mark(HOSTILE)
    trace.born(Allocation(MIB, MIB, "weights", HOSTILE, HOSTILE, (MIB,), HOSTILE, 0))
    harmless = Trace(trace.allocations, trace.events, [(0, "a phase")])
    harmless.allocations = [Allocation(MIB, MIB, "weights", "module", "op", (MIB,), "uint8", 0)]
    html = page(Profile(trace, card(), False), HOSTILE)
    assert Tags(html).found == Tags(page(Profile(harmless, card(), False), "a run")).found
    assert data_of(html)["words"] == [HOSTILE]
    assert data_of(html)["stages"][0][2] == HOSTILE


def test_the_data_are_the_curve(profile):
    data, found = data_of(page(profile, "a run")), curve(profile)
    assert list(accumulate(data["moments"])) == found.moments.tolist()
    assert [list(accumulate(part)) for part in data["parts"]] == [part.tolist() for part in found.parts.values()]
    assert list(accumulate(data["reserved"])) == found.reserved.tolist()
    assert data["peak"] == found.peak
    assert data["oom"] is None
    taken, category, module, op = data["acts"][found.peak]
    assert (taken, data["names"][category][0]) == (2 * MIB, "temporaries")  # at its upper bound
    assert (data["words"][module], data["words"][op]) == ("model.layers.1.mlp", "mm")
    kind, count = data["held"][found.peak][0]
    assert (data["names"][data["kinds"][kind][0]][0], count, data["kinds"][kind][5]) == ("weights", 2, 4 * MIB)


def test_a_run_that_does_not_fit_says_where(trace, card):
    data = data_of(page(Profile(trace, card(usable=50 * MIB), False), "a run"))
    assert (data["oom"], data["oomText"]) == (0, "memory runs out here")


def test_a_long_run_stays_small(long_trace, card):
    html = page(Profile(long_trace, card(usable=2**30), True), "a run")
    assert len(html.encode()) < 2**20
    assert len(data_of(html)["moments"]) <= 4000


@pytest.mark.slow
def test_a_browser_draws_it(profile, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    (tmp_path / "page.html").write_text(page(profile, "a run"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=2000"]
    address = (tmp_path / "page.html").as_uri()
    for fragment, said in (("", "first step: backward (peak)"), ("#at=0", "takes 4.00 MiB: weights")):
        command = [browser, *flags, "--dump-dom", address + fragment]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        assert said in dom
