"The hub, played by a small server on this machine: what it may answer, and what is sent to it."

from trust.cases_hub import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
