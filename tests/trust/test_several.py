"Many concepts in one process, one after another and at the same time."

from trust.cases_several import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
