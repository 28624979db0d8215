"What leaves the session holds nothing of the pictures that it was learnt from."

from trust.cases_leaks import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
