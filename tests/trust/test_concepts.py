"What a folder or a checkpoint may hold: it loads as it was saved, or the message says what is wrong with it."

from trust.cases_concepts import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
