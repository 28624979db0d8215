"Reports that come with the package: of the weights that come with it, and what the results page prints of them."

import json

import pytest
from conftest import ROOT

from omnipersona.basics import OmniError
from omnipersona.bench.main_bench import goals_table
from omnipersona.bench.metrics import MEASURED, measured
from omnipersona.bench.scores import FLOORS

NAMES = sorted(p.stem for p in MEASURED.glob("*.json"))
OLDER = ["conditions"]  # measured with weights before those that ship, and said so on the results page


@pytest.fixture(scope="module")
def page():
    "The results page: its prose, and the text that its cells printed."
    cells = json.loads((ROOT / "nbs" / "900_results.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = [part for c in cells if c["cell_type"] == "markdown" for part in c["source"]]
    for out in (out for c in cells for out in c.get("outputs", [])):
        data = out.get("data", {})
        parts += out.get("text", []) or data.get("text/markdown", [])
    return "".join(parts)


def test_the_main_table_is_of_the_shipped_weights(tiny):
    assert measured("main")["backbone"] == tiny.fingerprint, (
        "other weights: run `make bench-main`, then `python tools/house.py measured`"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_report_says_with_which_weights_it_was_made(name):
    assert len(measured(name)["backbone"]) == 16


def test_the_page_says_which_reports_are_of_older_weights(tiny, page):
    older = [name for name in NAMES if measured(name)["backbone"] != tiny.fingerprint]
    assert set(older) <= set(OLDER)
    for name in older:
        assert f"The report *{name}* is of older weights" in page


def test_the_page_prints_what_was_measured(page):
    "Every line of the main table."
    lines = goals_table(measured("main")["rows"]).split("\n")[2:]
    assert len(lines) > len(FLOORS) and all(any(line.startswith(f"| {k}") for line in lines) for k in FLOORS)
    assert not (missing := [line for line in lines if line not in page]), f"execute nbs/900_results.ipynb: {missing}"


def test_what_was_not_measured_is_named():
    with pytest.raises(OmniError, match="'../weights': nothing was measured under this name; there is attention"):
        measured("../weights")
