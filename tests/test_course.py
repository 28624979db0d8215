"The course: checks that name the mistake, and assignments that show no solution."

import importlib
import json
import math
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import course
import pytest
import torch
from PIL import Image
from zoo import (
    A1,
    A2,
    A3,
    A4,
    A5,
    A6,
    ANY,
    CHECKS,
    FLOW_ID,
    HEUN,
    LEAST,
    MASK_ID,
    MIDPOINT,
    PLAN,
    ROOT,
    SURE,
    TOY,
    TURN,
    ZERO,
    ZOOS,
    functions,
    report_on,
    with_rule,
)

from omnipersona.bench import metrics
from omnipersona.concept import learner, tokens
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Result
from omnipersona.concept.replay import Trace
from omnipersona.course import (
    claim_rules,
    copies,
    flow_checks,
    flow_rules,
    mask_checks,
    mask_rules,
    metric_rules,
    own_concepts,
    project_checks,
    project_rules,
    replay_evidence,
    student_code,
    students,
    token_rules,
)
from omnipersona.course.mask_rules import mask_rule
from omnipersona.inside import crosstask
from omnipersona.model import attention, flow

OTTER = course.ROOT / ".venv-otter"


ANIMALS = [(nb, wrong) for nb, wrongs in ZOOS.items() for wrong in wrongs]


@pytest.mark.parametrize("nb,wrong", ANIMALS, ids=[f"{nb.stem[:2]}-{w[0]}-{w[3][:30]}" for nb, w in ANIMALS])
def test_zoo(nb, wrong):
    "Every wrong solution loses points at the check that names its mistake."
    report = report_on(nb, wrong)
    assert not report.passed and wrong[3] in str(report), str(report)
    assert report.finding.sentence.startswith("On the "), "the smallest case is named"


def test_the_zoo_is_large_and_its_mistakes_are_not_guessed():
    assert all(len(z) >= 8 for z in ZOOS.values()) and len(ANIMALS) >= 60


RULED = MASK_ID, HEUN, MIDPOINT, ANY, TURN, TOY, ZERO, ROOT, SURE, PLAN, LEAST


@pytest.mark.parametrize("student", ["ada7", "bob3", "cyn9", *RULED])
def test_the_right_solution_passes(student):
    for nb in ZOOS:
        mine = functions(nb, student)
        graded = f"{nb.name[:2]} graded"
        for name in sorted(set(CHECKS) & set(mine)):
            for report in (CHECKS[name](mine[name], student), CHECKS[name](mine[name], student, purpose=graded)):
                assert report.passed, str(report)


def test_answers_to_ones_own_sample():
    mine = functions(A1, "ada7")
    pairs = int(mine["my_mask"](*mask_checks.own_sample("ada7").inputs).sum())
    sample, mask = mask_checks.leaking_mask("ada7")
    leak = (mine["my_mask"](*sample.inputs) != mask).nonzero()[0].tolist()
    assert mask_checks.check_pairs(pairs, "ada7").passed and mask_checks.check_leak(leak, "ada7").passed
    for wrong in (..., None, pairs + 1, float("nan"), [pairs], "many"):
        assert not mask_checks.check_pairs(wrong, "ada7").passed
    for wrong in (..., None, leak[::-1], [1, 2, 3], "ab", (None, None), (1.5, 2)):
        assert not mask_checks.check_leak(wrong, "ada7").passed
    for wrong in (..., None, (1, 1), [1], "ab", (None, None)):
        assert not flow_checks.check_steps(wrong, "ada7").passed


def test_a_right_number_is_right_in_any_form():
    "What a sum or `nonzero` returns is a tensor, and students store it as it is."
    mine = functions(A1, "ada7")
    pairs = mine["my_mask"](*mask_checks.own_sample("ada7").inputs).sum()
    sample, mask = mask_checks.leaking_mask("ada7")
    leaks = (mine["my_mask"](*sample.inputs) != mask).nonzero()
    for right in (pairs, float(pairs), pairs.numpy(), pairs[None]):
        assert mask_checks.check_pairs(right, "ada7").passed, right
    for right in (leaks, leaks[0], tuple(leaks[0]), leaks[0].numpy(), tuple(leaks[0].tolist())):
        assert mask_checks.check_leak(right, "ada7").passed, right
    said = mask_checks.check_pairs(mine["my_mask"](*sample.inputs), "ada7")
    assert said.finding.mistake == "no whole number"


def test_a_mask_of_what_is_hidden_is_named():
    "Other libraries mark with True what must not be seen."
    mine = functions(A1, "ada7")["my_mask"]
    report = mask_checks.check_mask(lambda *stored: ~mine(*stored), "ada7", "known modes")
    assert "True and False are exchanged" in str(report)


# ---- what a student says about concepts of the backbone -------------------------------------------------------------
@pytest.fixture
def told(monkeypatch, bb, concept):
    "(right numbers, concepts) of a student, where concepts know all facts and gradients are random numbers."
    g = torch.Generator().manual_seed(0)
    same = torch.randn(1, 33, 4, generator=g)
    gradients = dict(
        understanding=same + torch.randn(6, 33, 4, generator=g), generation=torch.randn(6, 33, 4, generator=g)
    )
    monkeypatch.setattr(own_concepts, "facts_known", lambda bb, c, student: 5)
    monkeypatch.setattr(own_concepts, "own_gradients", lambda bb, c, student: gradients)
    coupled = Concept(bb, "kiki", routing="coupled")
    concepts = dict(decoupled=concept, coupled=coupled)
    return own_concepts.true_evidence(bb, concepts, ANY, [token_rules.token_rule(ANY)])[0], concepts


def test_numbers_about_ones_own_concepts(told, bb):
    right, concepts = told

    def said(numbers, given=concepts):
        report = own_concepts.check_evidence(numbers, ANY, given, bb)
        return report.finding.mistake if report.finding else "passed"

    assert said(right) == "passed"
    assert said(right | {"facts, coupled": 4}) == "a number does not belong to these concepts"
    assert said(right | {"both tasks": right["same task"]}) == "the two cosines are confused"
    assert said(right | {"same task": math.nan}) == "a number does not belong to these concepts"
    other = replace(token_rules.token_rule(ANY), compared="means")
    assert said(own_concepts.true_evidence(bb, concepts, ANY, [other])[0]) == "the rule of another student"
    for bad in (None, ..., [1, 2], {}, "much", {"both tasks": 1}):
        assert said(bad) == "no four numbers"
    assert said(right | {"both tasks": "low"}) == "no number" == said(right | {"both tasks": True})
    for bad in (None, ..., [], {}, dict(decoupled=concepts["decoupled"])):
        assert said(right, bad) == "no two concepts"
    assert said(right, dict.fromkeys(concepts, concepts["decoupled"])) == "a concept of the wrong routing"
    assert own_concepts.check_evidence(right, ANY, concepts, None).finding.mistake == "no backbone"


def pictures(**changes):
    "(fact, counterfactual) of a student, as a right solution hands them in, with changes of one of the two."
    facts, name, key = own_concepts.own_character(TOY).facts, own_concepts.own_name(TOY), "toy"
    shown = [(request, question.format(name="luna")) for request, question in functions(A4, TOY)["my_examples"]]
    request = f"a photo of <{name}> with its {key}"
    trace = Trace(request, f"what is the {key} of <{name}> ?", facts[key], f"a photo with {facts[key]}", shown)
    fact = Result(request, trace.prompt, image=Image.new("RGB", (8, 8)), seed=3, trace=trace)
    other = replace(fact, trace=replace(trace, answer="a grey stone", by_hand=True))
    for k, v in changes.items():
        where, field = k.split("_", 1)
        given = fact if where == "fact" else other
        if hasattr(given, field):
            setattr(given, field, v)
        else:
            setattr(given.trace, field, v)
    return fact, other


def test_two_pictures_of_ones_own_character():
    mine = functions(A4, TOY)["my_examples"]
    facts = own_concepts.own_character(TOY).facts

    def said(given, examples=mine):
        report = replay_evidence.check_pictures(given, TOY, examples)
        return report.finding.mistake if report.finding else "passed"

    assert said(pictures()) == "passed"
    assert said(pictures(other_seed=4)) == "new noise"
    assert said(pictures(fact_trace=None)) == "drawn without replay"
    assert said(pictures(fact_request=f"a photo with {facts['toy']}")) == "the answer leaked into the request"
    assert said(pictures(fact_question="")) == "replay where nothing is asked"
    assert said(pictures(fact_answer="a grey stone")) == "another answer"
    assert said(pictures(other_by_hand=False)) == "no counterfactual"
    assert said(pictures(other_fallback="rewriting: endless")) == "the answer did not reach the prompt"
    assert said(pictures(), [("a", "b")] * 3) == "not your own examples" == said(pictures(), None)
    for bad in (None, ..., [], (1, 2), pictures()[0], pictures()[:1]):
        assert said(bad) == "no two pictures"


def test_a_concept_of_another_character_does_not_count(bb, concept):
    concepts = dict(decoupled=concept, coupled=Concept(bb, "kiki", routing="coupled"))
    report = own_concepts.check_evidence({}, "ada7", concepts, bb)
    assert report.finding.mistake == "the concept does not know your character" and "*your* character" in str(report)


def test_every_student_has_another_character():
    ids = [f"s{i}" for i in range(12)]
    assert len({str(own_concepts.own_character(s).facts) for s in ids}) == 12
    assert own_concepts.own_character(" S1") == own_concepts.own_character("s1")


# ---- whose notebook is it? ----------------------------------------------------------------------------------------
def test_students_get_different_rules_and_the_same_ones_again():
    ids = [f"s{i}" for i in range(40)]
    assert len({mask_rule(s) for s in ids}) > 12 and len({flow_rules.flow_rule(s) for s in ids}) > 25
    assert mask_rule(" S1 ") == mask_rule("s1")
    assert students.student_seed("ada7", "A1") == 1_937_237_801_625_159_194, "the same on every machine, for ever"


def test_a_copied_notebook_is_refused_by_name(monkeypatch, tmp_path):
    mine = functions(A1, "ada7")
    monkeypatch.setenv("OMNIPERSONA_STUDENT", "bob3")
    report = mask_checks.check_experts(mine["my_experts"], "ada7")
    assert "made for the student 'ada7' and handed in by 'bob3'" in str(report)
    monkeypatch.delenv("OMNIPERSONA_STUDENT")
    (tmp_path / "m.json").write_text(json.dumps({"users": [{"email": "Bob3@uni.edu", "sid": None}]}))
    assert "bob3" in students.handed_in_by(tmp_path / "m.json")
    for broken in ("", "[]", '{"users": 3}', '{"users": [3]}'):
        (tmp_path / "m.json").write_text(broken)
        assert students.handed_in_by(tmp_path / "m.json") == []


def test_a_copied_notebook_with_another_id_follows_the_wrong_rule():
    mine = functions(A1, MASK_ID)
    other = with_rule(mask_rule, "A1", width=2, inside="last")
    report = mask_checks.check_mask(mine["my_mask"], other)
    assert report.finding.mistake == "the rule of another student" and "groups of 3" in str(report)
    source = functions(A2, HEUN)
    assert "another student" in str(flow_checks.check_sampler(source["my_sampler"], MIDPOINT))


def test_an_id_that_is_no_text_is_told_how_to_write_it():
    for given, said in (
        (12345, 'STUDENT = "12345"'),
        (print, "builtin_function"),
        (None, "is empty"),
        ("", "is empty"),
    ):
        report = mask_checks.check_experts(None, given)
        assert said in str(report) and report.finding.mistake == "the id in the first cell"
        assert said in students.welcome(given, "a rule")


@pytest.mark.parametrize("missing", ["", None, 3, "your-id-here", " Your-ID-here"])
def test_without_an_id_there_is_no_check(missing):
    for name, check in CHECKS.items():
        report = check(None, missing)
        assert not report.passed and "id" in str(report), name


# ---- the library does not help ------------------------------------------------------------------------------------
def test_calling_the_package_scores_nothing():
    def by_library(order, segment, mode, expert):
        return attention.attention_mask(order[None], segment[None], mode[None])[0]

    def by_truth(order, segment, mode, expert):
        case = mask_rules.MaskCase("", order, segment, mode, expert, [])
        return mask_rules.true_mask(mask_rule(MASK_ID), case)

    imported, guide, euler = flow.interpolate, flow.guide, flow.euler
    by_kind, above, pairs = metrics.recognition, metrics.chance_corrected, metrics.paired
    splice, cosines = tokens.splice, crosstask.cosines
    calls = dict(
        my_loss=lambda predict, data, noise, t, picture: (predict(*imported(data, noise, t[:, None])) ** 2).mean(),
        my_times=lambda steps, tokens: flow.time_grid(steps + 1, 2.0),
        my_guidance=lambda *v: guide(*v[:3], flow.PRESETS["bagel_draw"]),
        my_euler=lambda velocity, x, times: euler(velocity, x, times),
        my_sampler=lambda *a: flow_rules.true_sampler(flow_rules.FlowRule(*"abcdef"), *a),
    )
    calls |= dict(
        my_ids=lambda names, spare, sizes, b: tokens.concept_token_ids(None, b),
        my_sentence=lambda *a: token_rules.true_sentence(token_rules.TokenRule(*range(7)), *a),
        my_splice=lambda ids, emb, token_ids, rows, n_und: splice(ids, emb, token_ids, rows),
        my_train=lambda backbone, rows, steps, rate: learner.Learner(None, None, "maeve"),
        my_interference=lambda a, b: cosines(a[0], b[0]),
    )
    calls |= dict(
        my_recognition=lambda answers, there: by_kind(answers, answers, answers)["balanced"],
        my_skill=lambda right, options: above(float(right.double().mean()), 0.5),
        my_identity=lambda *v: metrics.identity_scores(*v),
        my_interval=lambda scores: torch.tensor([metrics.summary(scores.mean(1))["mean"]] * 3),
        my_p=lambda a, b: pairs(a, b)["p"],
    )
    for function in (by_library, by_truth):
        report = mask_checks.check_mask(function, MASK_ID)
        assert report.finding.mistake == "the library's function is called", str(report)
    for name, function in calls.items():
        report = CHECKS[name](function, FLOW_ID)
        assert report.finding.mistake == "the library's function is called", str(report)
    assert torch.equal(flow.time_grid(3), torch.tensor([1.0, 0.5, 0.0])), "afterwards the library works"


@pytest.fixture
def unread():
    yield
    student_code.READ.clear()


def truths():
    "Every function of the package that holds an answer."
    for module in student_code.TRUTHS:
        for name, f in vars(importlib.import_module(module)).items():
            if re.fullmatch(r"true_\w+|\w+_rule|sees|mask_cases", name) and f.__module__ == module:
                yield module, name, f


@pytest.mark.parametrize("module,name,function", list(truths()), ids=lambda x: x if isinstance(x, str) else "")
def test_a_notebook_that_reads_an_answer_is_noted(module, name, function, unread):
    try:
        exec(f"from {module} import {name}\n{name}()", dict(STUDENT="ada7"))
    except TypeError:
        pass  # it misses its inputs, and is noted all the same
    assert student_code.READ == {name}


def test_reading_an_answer_scores_nothing_and_is_named(unread):
    mine = functions(A1, "ada7")
    assert mask_checks.check_mask(mine["my_mask"], "ada7").passed, "the rule in words is no answer"
    exec("mask_rule(STUDENT)", dict(STUDENT="ada7", mask_rule=mask_rule))
    report = mask_checks.check_mask(mine["my_mask"], "ada7")
    assert report.finding.mistake == "the answers of the checks are read" and "`mask_rule`" in str(report)
    assert "restart the kernel" in str(report)


def test_a_pasted_answer_scores_nothing_and_is_named():
    "Also where the copy has another name and other variables."
    text = Path(flow_rules.__file__).read_text(encoding="utf-8")
    start = text.index("def true_times(")
    copied = text[start : text.index("\n\n", start)].replace("true_times", "helper").replace("twist", "kind_of")
    notebook = dict(__name__="__main__", torch=torch, TIME_TWISTS=flow_rules.TIME_TWISTS)
    notebook["RULE"] = flow_rules.flow_rule("ada7")
    mine = "\n\ndef my_times(steps, tokens):\n    return helper(RULE, steps, tokens)"
    exec("from __future__ import annotations\n" + copied.replace("FlowRule", "object") + mine, notebook)
    report = flow_checks.check_times(notebook["my_times"], "ada7")
    assert report.finding.mistake == "the answers of the checks are pasted" and "`true_times`" in str(report)
    del notebook["helper"]
    assert flow_checks.check_times(notebook["my_times"], "ada7").finding.mistake != report.finding.mistake


def test_functions_that_two_students_have_in_common_are_found(tmp_path):
    "Names, comments and docstrings are changed; the solution's own functions differ from them."
    source = "".join(s for k, s in course.student_version(A5) if k == "code")
    assert copies.shapes(source) == {}, "what is handed out holds no function that is long enough"
    nb = json.loads(A5.read_text(encoding="utf-8"))
    for student, change in {"ada7": ("gap", "gap"), "bob3": ("gap", "d"), "cyn9": (".mean(", ".sum(")}.items():
        text = json.dumps(nb).replace(*change)
        (tmp_path / f"{student}.ipynb").write_text(text, encoding="utf-8")
    pairs = {(a.first[:4], a.second[:4]) for a in copies.alike(tmp_path) if a.function == "my_p"}
    assert pairs == {("ada7", "bob3")}


def test_two_students_seldom_share_a_rule():
    "Of A1 they do, and the package says how likely."
    for rules in (flow_rules.flow_rules(), token_rules.token_rules(), metric_rules.metric_rules()):
        assert copies.share_probability(len(rules), 25) < 0.04
    protocols = [project_rules.project_rule(f"student{i}") for i in range(500)]
    assert len(set(protocols)) == 500
    assert copies.share_probability(24, 25) == pytest.approx(0.64, abs=0.01)


# ---- A5: claims; A6: a folder from anybody --------------------------------------------------------------------------
def test_claims_that_lie():
    rule, lies, claims = metric_rules.metric_rule("ada7"), claim_rules.true_lies("ada7"), claim_rules.own_claims("ada7")
    honest = {k: claim_rules.METRICS[lies[k]][0](rule, *c.records).reshape(-1).tolist() for k, c in claims.items()}

    def said(lies, honest):
        report = claim_rules.check_lies(lies, "ada7", honest)
        return report.finding.mistake if report.finding else "passed"

    assert said(lies, honest) == "passed"
    assert said(lies, honest | {"C": claims["C"].value}) == "the claim is believed"
    assert said(lies, honest | {"D": [5.0] * len(honest["D"])}) == "not the number of these records"
    other = next(k for k in claim_rules.LIES if k != lies["B"])
    assert said(lies | {"B": other}, honest) == "claim B lies in another way"
    assert said(lies | {"A": "a lie"}, honest) == "no name of a lie" and said({}, honest) == "no five names"
    assert said(lies, None) == "no five numbers" and said(lies, honest | {"A": None}) == "no number"
    told = {k: c.value for k, c in claim_rules.own_claims("bob3").items()}
    assert told != {k: c.value for k, c in claims.items()}, "another student has other claims"


def test_a_project_folder_from_anybody(tmp_path):
    checks = project_checks.check_album, project_checks.check_results, project_checks.check_summary

    def said(folder):
        return [c(folder, "ada7").finding.mistake for c in checks]

    assert set(said(tmp_path / "nothing")) == {"no project folder"} and set(said(tmp_path)) == {"no report"}
    report = tmp_path / "report.json"
    for text in ("", "[]", "{", "[" * 100_000, "x" * 6_000_000):
        report.write_text(text)
        assert set(said(tmp_path)) == {"no report"}, text[:20]
    for wrong in ({}, {"student": None}, {"student": "ada7", "results": [], "summary": 3}, {"album": {"learn": 3}}):
        report.write_text(json.dumps(wrong))
        assert all(said(tmp_path)), wrong
    report.write_text(json.dumps({"student": "bob3"}))
    assert said(tmp_path)[0] == "the project of another student"
    report.unlink()
    outside = tmp_path.parent / "outside.json"
    outside.write_text(json.dumps({"student": "ada7"}))
    report.symlink_to(outside)
    assert set(said(tmp_path)) == {"no report"}, "no link is followed"


def test_pictures_of_a_project_that_are_none(tmp_path):
    (tmp_path / "learn").mkdir()
    (tmp_path / "learn" / "a.png").write_bytes(b"no picture")
    (tmp_path / "learn" / "b.png").symlink_to("/etc/passwd")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "learn" / "c.png")
    assert list(project_checks._pictures(tmp_path, "learn")) == ["c.png"]


def test_a_grader_can_have_cases_of_its_own(monkeypatch):
    before = [students.student_seed("ada7", p) for p in ("A1", "A1 cases", "A1 graded")]
    monkeypatch.setenv("OMNIPERSONA_SALT", "our secret")
    after = [students.student_seed("ada7", p) for p in ("A1", "A1 cases", "A1 graded")]
    assert [a == b for a, b in zip(before, after)] == [True, True, False]


# ---- what a student's function does -------------------------------------------------------------------------------
# Bad input to all checks: test_course_bad_input.py
def test_a_loop_that_was_mended_is_run_again():
    "A check that wraps a student's function must not remember the wrapper as endless."
    mine = functions(A3, "ada7")

    def endless(*given):
        raise AssertionError("known to be endless, so it is not called")

    student_code._slow.append(endless.__code__)
    assert "did not return" in str(CHECKS["my_train"](endless, "ada7"))
    assert CHECKS["my_train"](mine["my_train"], "ada7").passed
    student_code._slow.remove(endless.__code__)


def test_nan_is_named():
    report = flow_checks.check_times(lambda steps, tokens: torch.full((steps + 1,), math.nan), "ada7")
    assert report.finding.mistake == "NaN or infinite numbers"


def test_a_function_that_changes_its_inputs_changes_copies():
    mine = functions(A1, "ada7")

    def careless(order, segment, mode, expert):
        answer = mine["my_mask"](order, segment, mode, expert)
        order.zero_(), segment.zero_()
        return answer

    assert mask_checks.check_mask(careless, "ada7").passed


def test_a_wrong_sketch_keeps_the_points_of_the_known_modes():
    mine = functions(A1, MASK_ID, ("SKETCH, grouped", "SKETCH, causal"))
    passed = {p: mask_checks.check_mask(mine["my_mask"], MASK_ID, p).passed for p in mask_checks.MASK_PARTS}
    assert passed == {p: p != "inside a sketch" for p in mask_checks.MASK_PARTS}


def test_every_rule_can_be_told_from_every_other():
    for width in (2, 3, 4):
        cases = [
            mask_rules.mask_case(*c) for c in ([f"sketch {3 * width}"], ["word 1", "word 1", "sketch 2", "mixed 2"])
        ]
        rules = [r for r in mask_rules.mask_rules() if r.width == width]
        assert len(rules) == len({str([mask_rules.true_mask(r, c).tolist() for c in cases]) for r in rules}) == 8


# ---- nothing of the solution --------------------------------------------------------------------------------------
@pytest.mark.parametrize("nb", ZOOS, ids=lambda p: p.stem)
def test_the_student_version_by_the_markers(nb):
    "Also where Otter is not installed: no line of a solution, and code that compiles."
    cells = course.student_version(nb)
    text, hidden = "\n".join(s for _, s in cells), course.solution_lines(nb)
    assert len(hidden) > 20 and not (shown := [line for line in hidden if line in text]), shown
    assert not re.search(r"BEGIN|END (SOLUTION|PROMPT|TESTS)|graded\"", text)
    for kind, source in cells:
        if kind == "code":
            compile(re.sub(r"^\s*!.*", "", source, flags=re.M).replace(":  # only", ": pass  # only"), nb.name, "exec")
    assert text.count("raise NotImplementedError") == {A1: 3, A2: 5, A3: 6, A4: 2, A5: 5, A6: 3}[nb]
    assert 'STUDENT = "your-id-here"' in text


def test_points_as_announced():
    for nb in ZOOS:
        text = nb.read_text(encoding="utf-8")
        assert "omnipersona @ git" in "".join(json.loads(text)["cells"][0]["source"]), "the grader needs the package"
        points = re.findall(r"\"points: (\d+)\\n\",\n +\"manual: (true|false)", text)
        total, manual = sum(int(p) for p, _ in points), sum(int(p) for p, m in points if m == "true")
        announced = {A4: (15, 4), A5: (15, 6), A6: (10, 6)}.get(nb, (20, 4))
        assert (total, manual) == announced, points


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    "What `make course` makes."
    if not (OTTER / "bin" / "otter").exists():
        pytest.skip("needs .venv-otter: make course")
    folder = tmp_path_factory.mktemp("course")
    course.build(OTTER, folder)
    return folder


@pytest.mark.trust
def test_nothing_of_the_solution_is_handed_out(made):
    for nb in ZOOS:
        hidden = course.solution_lines(nb)
        for path in (made / "student" / nb.name, made / "autograder" / f"{nb.stem}.zip"):
            text = course.texts(path).replace("\\n", "\n").replace('\\"', '"')
            assert not (shown := [line for line in hidden if line in text]), (path.name, shown)
        student = json.loads((made / "student" / nb.name).read_text(encoding="utf-8"))
        assert not any(c.get("outputs") for c in student["cells"])
        assert "otter" not in "".join("".join(c["source"]) for c in student["cells"]), "students need no Otter"


@pytest.mark.trust
@pytest.mark.parametrize("nb", ZOOS, ids=lambda p: p.stem)
def test_solution_and_student_version_when_graded(made, nb, tmp_path):
    found = course.measure(OTTER, made, nb)
    assert found["solution"] == 1 and found["cpu"] < 300, found  # seconds of one core, whatever else runs
    assert found["student"] <= 0.1 and found["copied"] and found["reading"], found
    text = (made / "solution" / nb.name).read_text(encoding="utf-8")
    (tmp_path / nb.name).write_text(text.replace('\\"instructor\\"', '\\"ada7\\"'), encoding="utf-8")
    other, said = course.grade(OTTER, made / "autograder" / f"{nb.stem}.zip", tmp_path / nb.name, student="ada7")
    assert set(other.values()) == {1.0}, said


@pytest.mark.trust
def test_the_autograder_says_what_it_needs(made):
    for path in sorted((made / "autograder").glob("*.zip")):
        with zipfile.ZipFile(path) as z:
            assert "omnipersona @ git" in z.read("environment.yml").decode(), path
