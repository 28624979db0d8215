"Zip files: the one concept in them loads, or the message says why not. Nothing leaves the archive."

from trust.cases_archives import CASES
from trust.corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
