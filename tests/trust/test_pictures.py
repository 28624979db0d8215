"Pictures, good and bad, and 600 mutated files; 20,000 in `make test-trust`."

import pytest

from .cases_pictures import CASES
from .corpus import check, each
from .fuzz_pictures import fuzz


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)


def test_mutated_files():
    "JPEG, PNG, WebP and AVIF with bytes changed, lost, doubled: read, or an OmniError with the name."
    counts = fuzz(600, seed=0)
    assert counts["raw"] == 0 and counts["refused"] > 100, counts


@pytest.mark.trust
def test_20000_mutated_files():
    counts = fuzz(20_000, seed=1)
    assert counts["raw"] == 0 and sum(counts[k] for k in ("accepted", "refused")) == 20_000, counts
