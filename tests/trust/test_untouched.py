"Whatever is done with concepts, the backbone keeps every byte, and says and draws the same without a concept."

from trust.cases_untouched import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
