"A run goes on to more steps, and a concept is the start of another run."

from trust.cases_again import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
