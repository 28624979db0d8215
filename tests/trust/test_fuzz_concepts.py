"Thousands of damaged concepts: each loads or is refused by name, and memory stays bounded."

import pytest

from trust.fuzz_concepts import fuzz


@pytest.mark.parametrize("n", [600])
def test_some(n):
    examples = []
    counts = fuzz(n, examples=examples)
    assert not examples, examples[0]
    assert counts["accepted"] and counts["refused"] > n // 4 and counts["MB"] < 200, counts


@pytest.mark.trust
def test_ten_minutes():
    examples = []
    counts = fuzz(seconds=600, seed=1, examples=examples)
    assert not examples, examples[0]
    assert counts["MB"] < 300, counts
