"A setting that cannot be is named where it is given; one that can be survives JSON."

from trust.cases_settings import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
