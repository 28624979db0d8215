"The faults of ../shared/faults, each kind with several cases: none may come back."

import importlib
from dataclasses import replace
from pathlib import Path

from .corpus import all_cases, check, each

KINDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 18, 19, 20, 26)
FAULTS: dict = {}  # {number: cases}
for path in sorted(Path(__file__).parent.glob("faults_*.py")):
    for number, found in importlib.import_module(f"trust.{path.stem}").FAULTS.items():
        FAULTS.setdefault(number, []).extend(found)
ELSEWHERE = {c.run for c in all_cases()}  # what make test tries in its own area
CASES = [replace(c, slow=c.slow or c.run in ELSEWHERE) for number in sorted(FAULTS) for c in FAULTS[number]]


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)


def test_every_kind_has_its_cases():
    missing = [k for k in KINDS if k not in FAULTS]
    assert not missing, f"no case for the faults {missing}"
