"Nothing that a person writes becomes a control token, or another concept's."

from trust.cases_tokens import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
