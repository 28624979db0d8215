"Killed, stopped, without disk or folder: what was learnt is there, and the next run ends as if nothing had happened."

from trust.cases_kills import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
