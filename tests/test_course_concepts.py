"The concepts of the course: all there, of the shipped weights, refused elsewhere, learnt again when needed."

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import omnipersona
from omnipersona.basics import OmniError
from omnipersona.bench.metrics import measured
from omnipersona.concept.persona import Persona
from omnipersona.course.course_concepts import (
    COURSE_CONCEPTS,
    FOLDERS,
    course_character,
    course_concept,
    course_data,
    is_current,
    learn_course_concepts,
)
from omnipersona.course.token_roles import ROLES, token_roles_text

each = pytest.mark.parametrize("c", COURSE_CONCEPTS, ids=lambda c: c.folder)


@each
def test_a_concept_opens_and_knows_its_character(tiny, c):
    concept = course_concept(tiny, c.name, c.routing)
    assert is_current(tiny, c) and bool(concept.gen_ids) == (c.routing == "decoupled")
    facts = course_character(c.name).facts
    said = Persona(tiny, concept).ask_many([f"what is the {k} of <{c.name}> ?" for k in facts])
    assert sum(r.text == fact for r, fact in zip(said, facts.values())) >= 4


def test_they_are_small_and_lie_inside_the_package():
    "So a wheel has them, and Colab, where only the package is installed."
    assert FOLDERS.is_relative_to(Path(omnipersona.__file__).parent)
    assert {p.name for p in FOLDERS.iterdir()} == {c.folder for c in COURSE_CONCEPTS}
    for c in COURSE_CONCEPTS:
        assert sum(p.stat().st_size for p in (FOLDERS / c.folder).iterdir()) < 40_000
    assert len({c.name for c in COURSE_CONCEPTS}) >= 6
    assert {c.routing for c in COURSE_CONCEPTS if c.name == "pip"} == {"decoupled", "coupled"}


def test_other_weights_are_refused_with_what_to_do(bb):
    "A random backbone has another fingerprint."
    with pytest.raises(OmniError, match=r"this backbone is random.*learn\(bb, course_data\(\"pip\", bb.size\)"):
        course_concept(bb, "pip")


def test_what_the_course_does_not_have_is_named(tiny, tmp_path):
    with pytest.raises(OmniError, match="'rex': the course has no decoupled concept of this name; there is bruno"):
        course_concept(tiny, "rex")
    with pytest.raises(OmniError, match="no coupled concept of this name; there is pip"):
        course_concept(tiny, "otto", "coupled")
    with pytest.raises(OmniError, match="not in this installation; `learn"):
        course_concept(tiny, "pip", folder=tmp_path)
    with pytest.raises(OmniError, match="routing='both'"):
        course_concept(tiny, "pip", "both")


def test_only_what_is_missing_or_of_other_weights_is_learnt_again(tiny, tmp_path):
    todo = tuple(replace(c, steps=2, n_images=2) for c in COURSE_CONCEPTS[:2])
    assert learn_course_concepts(tmp_path, todo) == [c.folder for c in todo]
    assert learn_course_concepts(tmp_path, todo) == []
    about = tmp_path / todo[0].folder / "concept.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | dict(fingerprint="0" * 16)))
    shutil.rmtree(tmp_path / todo[1].folder)
    assert learn_course_concepts(tmp_path, todo) == [c.folder for c in todo]
    assert course_concept(tiny, todo[0].name, folder=tmp_path).summary["steps"] == 2


def test_the_data_are_those_of_the_character():
    data = course_data("pip")
    assert data.facts == course_character("pip").facts and len(data.images) == 10


def test_the_report_of_token_roles_is_of_sixteen_runs_with_the_shipped_weights(tiny):
    report = measured("token_roles")
    runs = {(r["name"], r["seed"]) for r in report["runs"]}
    assert len(runs) == len(report["runs"]) == 16 and len({name for name, _ in runs}) == 8
    assert report["backbone"] == tiny.fingerprint, "other weights: run `make bench-token-roles`, then house.py measured"
    assert all(report["falls"][role]["identity"]["n"] == 16 for role in ROLES if role != "all tokens")
    assert "16 runs" in token_roles_text(report)
