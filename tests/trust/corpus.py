"""A case of the corpus: what is brought, and what must come of it.

Each area has `cases_<area>.py` (CASES, made by loops and tables) and `test_<area>.py`.
`make test-trust` counts them all (report.py)."""

import importlib
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from omnipersona.basics import OmniError

AREAS = {  # in the order of the table
    "pictures": "pictures",
    "folders": "folders",
    "texts": "texts",
    "concepts": "concepts",
    "archives": "archives",
    "hub": "hub",
    "settings": "settings",
    "kills": "kills",
    "numbers": "numbers",
    "again": "more of the same",
    "untouched": "backbone untouched",
    "html": "markup in pages",
    "leaks": "leaks",
    "tokens": "forged tokens",
    "several": "several at once",
    "supply": "supply chain",
}
OUTCOMES = ("accepted", "refused", "raw", "wrong")


@dataclass(frozen=True)
class Case:
    "One input. `run(tmp)` makes it in the folder tmp and hands it to the package."

    area: str
    name: str
    run: Callable[[Path], object]
    expect: str = "accepted"  # 'accepted': run returns, not False, a Tally that holds. 'refused': OmniError
    words: tuple[str, ...] = ()  # what the refusal must contain: the input's name, the reason, the remedy
    slow: bool = False  # only in make test-trust

    def __post_init__(self) -> None:
        assert self.expect in ("accepted", "refused"), f"{self.name}: expect {self.expect!r}"


@dataclass(frozen=True)
class Tally:
    "What a case may return that counts more than one thing."

    kills: int = 0  # processes killed
    survived: int = 0  # of these: the concept was there, and a restart gave the same bits
    lost: int = 0  # bytes of the user's that are gone
    leaks: int = 0  # places where something of the user's was found that must not be there

    def holds(self) -> bool:
        return self.survived == self.kills and not self.lost and not self.leaks


@dataclass(frozen=True)
class Outcome:
    "What came of a case. 'raw': another error than OmniError. 'wrong': accepted or refused, but not as expected."

    kind: str  # one of OUTCOMES
    message: str
    seconds: float
    tally: Tally = Tally()


def attempt(case: Case, tmp: Path) -> Outcome:
    "Try a case. Only a wish to stop (KeyboardInterrupt) and pytest's own skip come through."
    began, tally = time.perf_counter(), Tally()
    tmp.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = case.run(tmp)
        kind, message = "accepted", f"returned {type(value).__name__}"
        if case.expect == "refused":
            kind, message = "wrong", "accepted, but must be refused"
        elif isinstance(value, Tally):
            tally, message = value, str(value)
            kind = "accepted" if value.holds() else "wrong"
        elif value is False:
            kind, message = "wrong", "accepted, but the promise did not hold"
    except OmniError as e:
        kind, message = "refused", str(e)
        said = message.replace(str(tmp), "").lower()  # the folder's name comes from the case's: it says nothing
        missing = [w for w in case.words if w.lower() not in said]
        if case.expect == "accepted":
            kind, message = "wrong", f"refused, but must be accepted: {message}"
        elif missing:
            kind, message = "wrong", f"the refusal does not say {missing}: {message}"
    except (KeyboardInterrupt, pytest.skip.Exception):
        raise
    except BaseException as e:  # a raw error is what is counted here, SystemExit too
        kind, message = "raw", f"{type(e).__name__}: {e}"
    return Outcome(kind, message, time.perf_counter() - began, tally)


def check(case: Case, tmp: Path) -> Outcome:
    "Try a case and assert that its outcome is the expected one."
    outcome = attempt(case, tmp)
    assert outcome.kind == case.expect, f"{case.area}/{case.name}: {outcome.kind}: {outcome.message}"
    return outcome


def each(cases: Iterable[Case]) -> pytest.MarkDecorator:
    "A test for each case: `@each(CASES) def test_case(case, tmp_path): check(case, tmp_path)`. Slow: marked trust."
    return pytest.mark.parametrize(
        "case", [pytest.param(c, id=c.name, marks=[pytest.mark.trust] if c.slow else []) for c in cases]
    )


def all_cases() -> list[Case]:
    "The cases of every area that has a file cases_<area>.py."
    here = Path(__file__).parent
    if str(here.parent) not in sys.path:
        sys.path.insert(0, str(here.parent))  # the tests' helpers.py
    cases = []
    for area in AREAS:
        if (here / f"cases_{area}.py").exists():
            cases += importlib.import_module(f"trust.cases_{area}").CASES
    names = [(c.area, c.name) for c in cases]
    twice = sorted({n for n in names if names.count(n) > 1})
    assert not twice, f"two cases have one name: {twice}"
    return cases
