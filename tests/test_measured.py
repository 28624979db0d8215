"Reports that come with the package: of the weights that come with it, and what the README prints of them."

import pytest
from conftest import ROOT

from omnipersona.basics import OmniError
from omnipersona.bench.main_bench import goals_table
from omnipersona.bench.metrics import MEASURED, measured
from omnipersona.bench.scores import FLOORS

NAMES = sorted(p.stem for p in MEASURED.glob("*.json"))


def test_the_main_table_is_of_the_shipped_weights(tiny):
    assert measured("main")["backbone"] == tiny.fingerprint, (
        "other weights: run `make bench-main`, then `python tools/house.py measured`"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_report_says_with_which_weights_it_was_made(name):
    assert len(measured(name)["backbone"]) == 16


def test_readme_prints_what_was_measured():
    table = goals_table(measured("main")["rows"])
    assert table in (ROOT / "README.md").read_text(encoding="utf-8"), "execute nbs/index.ipynb, then `make readme`"
    assert all(f"| {k}" in table for k in FLOORS)


def test_what_was_not_measured_is_named():
    with pytest.raises(OmniError, match="'../weights': nothing was measured under this name; there is attention"):
        measured("../weights")
