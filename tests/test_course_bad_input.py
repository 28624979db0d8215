"""Bad input to every check of the course gets a sentence.

Checks are found by their form, so that those of new notebooks are tested too: `check_*(my_..., ...)` in
omnipersona/course."""

import importlib
import inspect
import math
import pkgutil
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import QUICK

import omnipersona.course
from omnipersona.concept.concept import Concept
from omnipersona.course import student_code
from omnipersona.course.checks import Report

SECONDS = 20.0  # of one core: how long a student waits at most, where nothing else runs


def checks():
    "Every check of the course: (module, name, function)."
    for found in pkgutil.iter_modules(omnipersona.course.__path__):
        module = importlib.import_module(f"omnipersona.course.{found.name}")
        for name, f in vars(module).items():
            if re.fullmatch(r"check_\w+", name) and getattr(f, "__module__", "") == module.__name__:
                first = next(iter(inspect.signature(f).parameters), "")
                if first.startswith("my_"):
                    yield found.name, name, f


ALL = list(checks())


# ---- bad input ----------------------------------------------------------------------------------------------------
def nothing(*given):
    return None


def wrong_shape(*given):
    return torch.zeros(7, 3, 2)


def a_list(*given):
    return ["a", {}]


def not_a_number(*given):
    return torch.full((2, 3), math.nan)


def a_plain_nan(*given):
    return math.nan


def raises(*given):
    raise ZeroDivisionError("division by zero")


def leaves(*given):
    raise SystemExit


def endless(*given):
    while True:
        try:
            sum(range(10))
        except Exception:
            pass


def no_arguments():
    return 3


FUNCTIONS = nothing, wrong_shape, a_list, not_a_number, a_plain_nan, raises, leaves, no_arguments, endless
VALUES = dict(
    none=None,
    ellipsis=...,
    numbers=[1, 2],
    words=["a", {}],
    pair=(None, "b"),
    nan=math.nan,
    nans=(math.nan, math.nan),
    tensor=torch.zeros(7, 3, 2),
    text="?",
    dictionary={"A": None, 3: []},
    flag=True,
    large=10**30,
)
BAD = {f.__name__: f for f in FUNCTIONS} | VALUES
SUITED = {"flag", "large", "nan"}  # what a few checks may take for a number or a bound
WORDS = dict(nothing="return", raises="ZeroDivisionError", endless="did not return", leaves="SystemExit")


@pytest.fixture(scope="session")
def given(bb, concept):
    "What checks need besides the answer, by the name of the parameter."
    falls = {k: dict(difference=d, sd=0.1, n=4) for k, d in (("name", -0.5), ("und", 0.9), ("gen", 0.1))}
    scores = {k: dict(identity=v) for k, v in (("all tokens", 0.9), ("without und", 0.1), ("without gen", 0.8))}
    return dict(
        bb=bb,
        first=concept,
        second=Concept(bb, "kiki", routing="coupled"),
        sampling=QUICK,
        report=dict(falls={f"without {k}": dict(identity=f) for k, f in falls.items()}, runs=[dict(scores=scores)] * 4),
        name="maeve",
        maps=SimpleNamespace(map=lambda part, step=None: np.eye(4)),
        shown=[(None, "held out"), (None, "look-alike"), (None, "other")],
        student="ada7",
    )


def said(check, bad, given, capsys):
    "(words that a student reads, whether the check passed) for bad input."
    needed = list(inspect.signature(check).parameters.values())[1:]
    unknown = [p.name for p in needed if p.default is p.empty and p.name not in given]
    assert not unknown, f"{check.__name__} needs {unknown}: say in the fixture `given` what to give"
    capsys.readouterr()
    report = check(bad, **{p.name: given[p.name] for p in needed if p.default is p.empty})
    printed = capsys.readouterr().out
    words = str(report) if isinstance(report, Report) else printed
    return words, report.passed if isinstance(report, Report) else ": passed." in printed


@pytest.mark.parametrize("module,name,check", ALL, ids=[f"{m}-{n}" for m, n, _ in ALL])
def test_bad_input_gets_a_sentence(module, name, check, given, capsys):
    for kind, bad in BAD.items():
        start = time.process_time()
        words, passed = said(check, bad, given, capsys)
        assert time.process_time() - start < SECONDS, kind
        assert not passed or kind in SUITED, f"{kind} passes: {words}"
        assert passed or ("Probable mistake: " in words and len(words) > 40), f"{kind}: {words!r}"
        assert "Traceback" not in words, kind


FUNCTION_CHECKS = [
    (m, n, c) for m, n, c in ALL if "function" in inspect.getsource(c).split("\n", 4)[1] + inspect.getsource(c)[:400]
]


@pytest.mark.parametrize("module,name,check", FUNCTION_CHECKS, ids=[f"{m}-{n}" for m, n, _ in FUNCTION_CHECKS])
def test_what_a_function_did_is_said(module, name, check, given, capsys):
    "A function that returns nothing, raises, leaves or never ends is not only wrong: the sentence says what it did."
    for kind, expected in WORDS.items():
        words, _ = said(check, BAD[kind], given, capsys)
        assert expected in words, f"{kind}: {words}"


def test_many_checks_are_found():
    modules = {m for m, _, _ in ALL}
    assert len(ALL) >= 60 and {"mask_checks", "metric_checks", "project_checks", "flow_exercises"} <= modules
    assert len(FUNCTION_CHECKS) >= 30


def test_an_endless_function_is_waited_for_once():
    "Not once for each case and each check: a student who runs all cells waits eight seconds."
    student_code._slow.append(endless.__code__)
    start = time.process_time()
    assert "did not return" in student_code.run_student(endless, 0).problem
    assert time.process_time() - start < 2
    student_code._slow.remove(endless.__code__)
