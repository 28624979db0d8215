"NaN, infinity, overflow, a diverging loss, no memory: the last good state comes back, or an error says what to do."

from trust.cases_numbers import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
