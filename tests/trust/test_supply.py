"Versions, hashes, licences, the bill of materials, and every promised Python."

from .cases_supply import CASES
from .corpus import check, each


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)
