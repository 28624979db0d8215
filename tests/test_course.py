"The course: checks that name the mistake, and assignments that show no solution. A zoo of wrong solutions lives here."

import json
import math
import re
import time
from pathlib import Path

import course
import pytest
import torch

from omnipersona.course import flow_checks, flow_rules, mask_checks, mask_rules, students
from omnipersona.course.checks import Report
from omnipersona.course.mask_rules import GEN, mask_rule
from omnipersona.model import attention, flow

A1, A2 = (course.ASSIGNMENTS / f"{n}.ipynb" for n in ("A1_who_sees_whom", "A2_noise_to_picture"))
OTTER = course.ROOT / ".venv-otter"
POINTS = {A1: 16, A2: 16}  # those that the grader gives; 4 more are for words


def solution(nb, student):
    "(source of the solution's functions, the names that they need) for a student."
    cells = json.loads(nb.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    keep = [c for c in code if re.search(r"^(def my_|CAUSAL|RULE)", c, re.M)]
    source = "\n\n".join(re.sub(r'^ *""" # BEGIN PROMPT.*?# END PROMPT', "", c, flags=re.M | re.S) for c in keep)
    return source, dict(torch=torch, STUDENT=student, mask_rule=mask_rule, flow_rule=flow_rules.flow_rule)


def functions(nb, student, change=None):
    "The functions of the solution, with one change (old text, new text) in their source."
    source, names = solution(nb, student)
    if change:
        assert source.count(change[0]) >= 1, f"not in the solution: {change[0]}"
        source = source.replace(*change)
    exec(compile(source, "<cell>", "exec"), names)
    return names


def with_rule(rules, purpose, **wanted):
    "The first id whose rule has these fields."
    for i in range(3000):
        if all(getattr(rules(f"student{i}"), k) == v for k, v in wanted.items()):
            return f"student{i}"
    raise AssertionError(f"no student has {purpose} {wanted}")


MASK_ID = with_rule(mask_rule, "A1", width=3, inside="all", reader=GEN, back="all")
FLOW_ID = with_rule(flow_rules.flow_rule, "A2", error="squared", average="picture", first="text", renorm="token")
HEUN = with_rule(flow_rules.flow_rule, "A2", sampler="Heun")
MIDPOINT = with_rule(flow_rules.flow_rule, "A2", sampler="midpoint")
CHECKS = dict(
    my_mask=mask_checks.check_mask,
    my_experts=mask_checks.check_experts,
    my_storage=mask_checks.check_storage,
    my_loss=flow_checks.check_loss,
    my_times=flow_checks.check_times,
    my_guidance=flow_checks.check_guidance,
    my_euler=flow_checks.check_euler,
    my_sampler=flow_checks.check_sampler,
)

CAUSAL = "order[None] <= order[:, None]"
READER = " & ((mode_k != SKETCH) | (expert[:, None] == RULE.reader))"
HIDDEN = "(mode_k != NOISE) & ((mode_k != FULL) | (expert[None] == UND))"
ROUTED = "(told | (kind == LATENT) | (kind == DRAFT)).long()"
ZOO_A1 = [  # function, old text, new text, words that the student must read
    ("my_mask", " & (mode_k != NOISE)", "", "a noised picture is visible later"),
    (
        "my_mask",
        "(mode_k != NOISE)",
        "((mode_k != NOISE) | (expert[None] == UND))",
        "start and end of a noised picture",
    ),
    ("my_mask", CAUSAL, "order[None] < order[:, None]", "off by one: a token does not see itself"),
    ("my_mask", CAUSAL, "order[None] <= order[:, None] + 1", "off by one: a token sees the next one"),
    ("my_mask", CAUSAL, "torch.ones(len(order), len(order)).tril() > 0", "the storage order is taken for the position"),
    ("my_mask", CAUSAL, "order[None] >= order[:, None]", "rows and columns are swapped"),
    ("my_mask", "mode_q == CAUSAL, causal", "mode_q == CAUSAL, True", "a text is read in both directions"),
    ("my_mask", "torch.eye(len(order), dtype=torch.bool)", "False", "the rows of empty places are empty"),
    ("my_mask", "torch.where(real, ", "torch.where(real | True, ", "an empty place counts as an earlier segment"),
    ("my_mask", "SKETCH, grouped, True", "SKETCH, grouped, causal", "a picture is read like a text"),
    ("my_mask", "segment[None] < segment[:, None]", "segment[None] != segment[:, None]", "later segments are visible"),
    ("my_mask", "(mode_k != NOISE)", HIDDEN, "clean pictures are hidden like noised ones"),
    ("my_mask", "SKETCH, grouped", "SKETCH, causal", "a sketch is read like a text, token by token"),
    ("my_mask", "SKETCH, grouped", "SKETCH, True", "a sketch is read like a picture, all at once"),
    ("my_mask", "(order - first)", "(order - first + 1)", "off by one: groups are counted from 1"),
    ("my_mask", "(order - first)", "order", "groups are counted from the start of the sample"),
    ("my_mask", "// RULE.width", "// (RULE.width + 2)", "a sketch is read in groups"),
    ("my_mask", "back >= 0 if", "back == 0 if", "a group sees only itself"),
    ("my_mask", READER, "", "every later token sees the sketch"),
    ("my_mask", READER, " & (mode_k != SKETCH)", "no later token sees the sketch"),
    ("my_mask", "expert[:, None] == RULE.reader", "expert[:, None] != RULE.reader", "the rule of another student"),
    ("my_mask", "before & (mode_k", "before & (mode_q != SKETCH) & (mode_k", "a sketch sees nothing before it"),
    ("my_experts", ROUTED, ROUTED.replace("told", "told | (kind == START) | (kind == END)"), "start and end tokens"),
    ("my_experts", ROUTED, ROUTED.replace("told", "told | (kind == PATCH)"), "patches of the ViT"),
    ("my_experts", "told | ", "", "gen tokens of the concept are not routed"),
    ("my_experts", " | (kind == DRAFT)", "", "a sketch is in the understanding expert"),
    ("my_experts", f"return {ROUTED}", f"return 1 - {ROUTED}", "the two experts are swapped"),
    (
        "my_storage",
        "((UND, 0), (GEN, und_slots))",
        "((GEN, 0), (UND, gen_slots))",
        "the generation expert is stored first",
    ),
    (
        "my_storage",
        "(GEN, und_slots)",
        "(GEN, int((expert == UND).sum()))",
        "empty places of both experts are at the end",
    ),
    ("my_storage", "-1, dtype", "0, dtype", "empty places hold 0"),
    ("my_storage", "[:, 0]\n", "[:, 0].flip(0)\n", "stored backwards"),
]
MIXED = "(1 - t)[:, None] * data + t[:, None] * noise"
RENORM = "* (both.norm(dim=over, keepdim=True) / w.norm(dim=over, keepdim=True)).clamp(max=1)"
STEPS = "zip(times[:-1].tolist(), times[1:].tolist())"
ZOO_A2 = [  # function, old text, new text, words that the student must read, id
    ("my_loss", "- (noise - data)", "- (data - noise)", "the sign of the velocity", FLOW_ID),
    ("my_loss", MIXED, "t[:, None] * data + (1 - t)[:, None] * noise", "time is reversed", FLOW_ID),
    ("my_loss", "noised = picture >= 0\n", "noised = picture >= -1\n", "clean tokens are noised", FLOW_ID),
    ("my_loss", f"torch.where(noised[:, None], {MIXED}, data)", MIXED, "clean tokens are noised", FLOW_ID),
    (
        "my_loss",
        'if RULE.average == "token":',
        "if True:\n        noised |= True",
        "the loss counts clean tokens",
        FLOW_ID,
    ),
    ("my_loss", ".mean(-1)", ".sum(-1)", "a sum over the channels", FLOW_ID),
    ("my_loss", 'if RULE.average == "token"', "if True", "where every token counts the same", FLOW_ID),
    ("my_loss", 'RULE.error == "squared"', "False", "the absolute error", FLOW_ID),
    ("my_times", "RULE.base * (tokens / 64) ** 0.5", "1.0", "no shift", FLOW_ID),
    ("my_times", " * (tokens / 64) ** 0.5", "", "does not depend on the size", FLOW_ID),
    ("my_times", " ** 0.5\n", "\n", "not with its root", FLOW_ID),
    ("my_times", "linspace(1, 0, steps + 1)", "linspace(0, 1, steps + 1)", "from picture to noise", FLOW_ID),
    ("my_times", "steps + 1)", "steps)", "one time too few", FLOW_ID),
    (
        "my_times",
        "RULE.base * (tokens / 64) ** 0.5",
        "1 / (RULE.base * (tokens / 64) ** 0.5)",
        "towards the picture",
        FLOW_ID,
    ),
    (
        "my_guidance",
        "(text, s_text, s_image) if",
        "(image, s_text, s_image) if",
        "the wrong branch is dropped",
        FLOW_ID,
    ),
    ("my_guidance", "(both - middle)", "(both - neither)", "both steps start from neither", FLOW_ID),
    ("my_guidance", "(text, s_text, s_image) if", "(text, s_image, s_text) if", "the two scales are swapped", FLOW_ID),
    ("my_guidance", RENORM, "", "no renormalisation", FLOW_ID),
    ("my_guidance", '"token": -1', '"token": -2', "renormalisation over the wrong axis", FLOW_ID),
    ("my_guidance", ".clamp(max=1)", "", "makes short velocities longer", FLOW_ID),
    ("my_guidance", "(both.norm", "(neither.norm", "the velocity without text and image", FLOW_ID),
    (
        "my_euler",
        "x = x - (t - t_next) * v\n    return torch",
        "x = x + (t - t_next) * v\n    return torch",
        "sign",
        FLOW_ID,
    ),
    ("my_euler", STEPS, STEPS.replace("times[", "times.flip(0)["), "time is reversed", FLOW_ID),
    (
        "my_euler",
        "velocity(x, t)\n        previews",
        "velocity(x, t_next)\n        previews",
        "end of the step",
        FLOW_ID,
    ),
    ("my_euler", "append(x - t * v)", "append(x - (t - t_next) * v)", "the preview steps to the next time", FLOW_ID),
    ("my_euler", "append(x - t * v)", "append(x + t * v)", "the preview goes the wrong way", FLOW_ID),
    ("my_sampler", "v = (v + velocity(x - (t - t_next) * v, t_next)) / 2", "pass", "this is Euler's method", HEUN),
    ("my_sampler", "* v, t_next)) / 2", "* v, t)) / 2", "the second velocity is taken at the first time", HEUN),
    ("my_sampler", "velocity(x - (t - t_next) * v, t_next)", "velocity(x, t_next)", "at the first place", HEUN),
    ("my_sampler", "t_next)) / 2", "t_next))", "added, not averaged", HEUN),
    ("my_sampler", "(t - middle) * v, middle)", "(t - middle) * v, t)", "at the first time", MIDPOINT),
    ("my_sampler", 'RULE.sampler == "Heun"', "True", "the rule of another student: Heun", MIDPOINT),
]


def named(zoo):
    return [f"{z[0]}-{z[3][:30]}" for z in zoo]


@pytest.mark.parametrize("name,old,new,words", ZOO_A1, ids=named(ZOO_A1))
def test_zoo_of_masks(name, old, new, words):
    "Every wrong solution of A1 loses points at the check that names its mistake."
    report = CHECKS[name](functions(A1, MASK_ID, (old, new))[name], MASK_ID)
    assert not report.passed and words in report.finding.text(), str(report)
    assert report.finding.sentence.startswith("On the "), "the smallest case is named"


@pytest.mark.parametrize("name,old,new,words,student", ZOO_A2, ids=named(ZOO_A2))
def test_zoo_of_flows(name, old, new, words, student):
    "Every wrong solution of A2 loses points at the check that names its mistake."
    report = CHECKS[name](functions(A2, student, (old, new))[name], student)
    assert not report.passed and words in report.finding.mistake, str(report)


def test_the_zoo_is_large_and_its_mistakes_are_not_guessed():
    assert len(ZOO_A1) >= 8 and len(ZOO_A2) >= 8 and len(ZOO_A1) + len(ZOO_A2) >= 60


@pytest.mark.parametrize("student", ["ada7", "bob3", "cyn9", MASK_ID, HEUN, MIDPOINT])
def test_the_right_solution_passes(student):
    for nb in (A1, A2):
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
    calls = dict(
        my_loss=lambda predict, data, noise, t, picture: (predict(*imported(data, noise, t[:, None])) ** 2).mean(),
        my_times=lambda steps, tokens: flow.time_grid(steps + 1, 2.0),
        my_guidance=lambda *v: guide(*v[:3], flow.PRESETS["bagel_draw"]),
        my_euler=lambda velocity, x, times: euler(velocity, x, times),
        my_sampler=lambda *a: flow_rules.true_sampler(flow_rules.FlowRule(*"abcdef"), *a),
    )
    for function in (by_library, by_truth):
        report = mask_checks.check_mask(function, MASK_ID)
        assert report.finding.mistake == "the library's function is called", str(report)
    for name, function in calls.items():
        report = CHECKS[name](function, FLOW_ID)
        assert report.finding.mistake == "the library's function is called", str(report)
    assert torch.equal(flow.time_grid(3), torch.tensor([1.0, 0.5, 0.0])), "afterwards the library works"


# ---- bad inputs ---------------------------------------------------------------------------------------------------
def endless(*inputs):
    while True:
        try:
            sum(range(10))
        except Exception:
            pass


def raises(*inputs):
    raise ZeroDivisionError("division by zero")


def leaves(*inputs):
    raise SystemExit


BAD = dict(
    nothing=(lambda *i: None, "None"),
    shape=(lambda *i: torch.zeros(7, 3), "shape (7, 3)"),
    list=(lambda *i: [1, 2], "a list, not a tensor"),
    nan=(lambda *i: torch.full_like(i[0].float() if isinstance(i[0], torch.Tensor) else i[1], math.nan), ""),
    raises=(raises, "ZeroDivisionError: division by zero"),
    endless=(endless, "did not return"),
    leaves=(leaves, "SystemExit"),
    arguments=(lambda: 3, "TypeError"),
    no_function=(torch.zeros(2), "A function is needed"),
    ellipsis=(..., "A function is needed"),
)


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_gets_a_sentence(kind):
    function, words = BAD[kind]
    for name in ("my_mask", "my_storage", "my_loss", "my_guidance"):
        if kind == "nan" and name != "my_guidance":
            continue
        start = time.monotonic()
        report = CHECKS[name](function, "ada7")
        assert time.monotonic() - start < 20
        assert isinstance(report, Report) and not report.passed and words in str(report), str(report)
        assert "<div" in report._repr_html_() and "Probable mistake" in str(report)


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
@pytest.mark.parametrize("nb", [A1, A2], ids=lambda p: p.stem)
def test_the_student_version_by_the_markers(nb):
    "Also where Otter is not installed: no line of a solution, and code that compiles."
    cells = course.student_version(nb)
    text, hidden = "\n".join(s for _, s in cells), course.solution_lines(nb)
    assert len(hidden) > 20 and not (shown := [line for line in hidden if line in text]), shown
    assert not re.search(r"BEGIN|END (SOLUTION|PROMPT|TESTS)|graded\"", text)
    for kind, source in cells:
        if kind == "code":
            compile(re.sub(r"^\s*!.*", "", source, flags=re.M).replace(":  # only", ": pass  # only"), nb.name, "exec")
    assert text.count("raise NotImplementedError") == {A1: 3, A2: 5}[nb]
    assert 'STUDENT = "your-id-here"' in text


def test_points_as_announced():
    for nb in (A1, A2):
        text = nb.read_text(encoding="utf-8")
        points = [int(p) for p in re.findall(r"\"points: (\d+)\\n\",\n +\"manual", text)]
        assert sum(points) == 20 and points[-1] == 4, points


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
    for nb in (A1, A2):
        hidden = course.solution_lines(nb)
        for path in (made / "student" / nb.name, made / "autograder" / f"{nb.stem}.zip"):
            text = course.texts(path).replace("\\n", "\n").replace('\\"', '"')
            assert not (shown := [line for line in hidden if line in text]), (path.name, shown)
        student = json.loads((made / "student" / nb.name).read_text(encoding="utf-8"))
        assert not any(c.get("outputs") for c in student["cells"])
        assert "otter" not in "".join("".join(c["source"]) for c in student["cells"]), "students need no Otter"


@pytest.mark.trust
@pytest.mark.parametrize("nb", [A1, A2], ids=lambda p: p.stem)
def test_solution_and_student_version_when_graded(made, nb, tmp_path):
    zipped = made / "autograder" / f"{nb.stem}.zip"
    start = time.monotonic()
    shares, _ = course.grade(OTTER, zipped, made / "solution" / nb.name)
    assert set(shares.values()) == {1.0} and time.monotonic() - start < 300, shares
    empty, _ = course.grade(OTTER, zipped, made / "student" / nb.name)
    assert sum(empty.values()) <= 0.1 * len(empty), empty
    copied, said = course.grade(OTTER, zipped, made / "solution" / nb.name, student="bob3")
    assert sum(copied.values()) == 0 and all("handed in by 'bob3'" in s for s in said.values()), said
    text = Path(made / "solution" / nb.name).read_text(encoding="utf-8")
    (tmp_path / nb.name).write_text(text.replace('\\"instructor\\"', '\\"ada7\\"'), encoding="utf-8")
    other, said = course.grade(OTTER, zipped, tmp_path / nb.name, student="ada7")
    assert set(other.values()) == {1.0}, said
