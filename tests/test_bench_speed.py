"Speed, growth, steps and early stopping: they run at a tiny size, compute ratios rightly, and can go on."

import json
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from helpers import SHORT

from omnipersona.basics import OmniError
from omnipersona.bench import growth_bench, speed_bench, steps_bench
from omnipersona.bench.class_estimate import WORK, ClassPlan, class_estimate, class_text
from omnipersona.bench.speed_work import ProductShapes, largest_shapes, product_seconds
from omnipersona.bench.steps_report import QUALITY, front_of, points_of, steps_to
from omnipersona.concept.early_stopping import EarlyStopping, checks_without_gain, keep_back, weighted_loss
from omnipersona.concept.learn import learn
from omnipersona.concept.learner import Learner
from omnipersona.concept.losses import Recipe
from omnipersona.concept.sampling import SamplesPerStep
from omnipersona.concept.time_to_learn import estimate_learning
from omnipersona.data import ConceptData
from omnipersona.progress import Estimate, ProgressBar, duration_text, estimate_run
from omnipersona.toyworld.world import ToyWorld

EXACT = replace(SHORT, precision="float32")


# ---- the estimate -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seconds", [9.6, 14, 33, 59, 61, 118, 124, 200, 400, 610, 3000, 5500, 20000])
def test_a_duration_in_words_is_near(seconds):
    "Words round a duration, by less than a fifth."
    text = duration_text(seconds)
    unit = next(n for word, n in (("second", 1), ("minute", 60), ("hour", 3600)) if word in text)
    assert abs(float(text.split()[1]) * unit / seconds - 1) < 0.2, text


def test_a_probe_changes_nothing(bb, data):
    "After a probe the run goes on bit for bit as without one, also in the middle of a run."
    runs = [Learner(bb, data, "maeve", recipe=replace(EXACT, steps=6)) for _ in range(2)]
    for _ in range(2):
        assert isinstance(estimate_run(runs[0], 6), Estimate)
        for run in runs:
            run.step()
    assert torch.equal(runs[0].concept.embeddings, runs[1].concept.embeddings)
    assert runs[0].history == runs[1].history and runs[0].global_step == 2 and runs[0].skipped == 0
    assert torch.equal(runs[0].generator.get_state(), runs[1].generator.get_state())


class FailingRun:
    "A run whose second step fails."

    def __init__(self):
        self.global_step = 0

    def step(self):
        self.global_step += 1
        if self.global_step == 2:
            raise KeyboardInterrupt

    def state(self):
        return (self.global_step,)

    def set_state(self, state):
        (self.global_step,) = state


def test_an_interrupted_probe_puts_the_state_back():
    run = FailingRun()
    with pytest.raises(KeyboardInterrupt):
        estimate_run(run, 10)
    assert run.global_step == 0


def test_learn_shows_and_keeps_an_estimate(bb, data, capsys):
    "Only where a bar is shown and the run is longer than the probe; the result is the same with and without."
    long = replace(EXACT, steps=18)
    shown = learn(bb, data, "maeve", recipe=long, preview=9)
    assert "on this machine" in capsys.readouterr().err
    assert shown.summary["estimated_seconds"] > 0 and [step for step, _ in shown.previews] == [0, 9, 18]
    hidden = learn(bb, data, "maeve", recipe=long, progress=False)
    assert "estimated_seconds" not in hidden.summary and torch.equal(shown.embeddings, hidden.embeddings)
    assert "estimated_seconds" not in learn(bb, data, "maeve", recipe=EXACT, steps=2).summary


def test_several_processes_are_not_probed():
    bar = ProgressBar("<maeve>", 100, probed=False)
    bar.on_train_begin(FailingRun())
    bar.close()
    assert bar.estimate is None


def test_an_estimate_without_a_run(bb, data):
    estimate = estimate_learning(bb, data, EXACT, steps=100)
    assert estimate.seconds == pytest.approx(100 * estimate.per_step) and "on this machine" in str(estimate)
    with pytest.raises(OmniError, match="stepps"):
        estimate_learning(bb, data, stepps=3)


# ---- early stopping -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ten():
    return ToyWorld().concept_data(ToyWorld().character(123), 6)


def test_what_is_kept_back_is_not_learnt_from(ten):
    "Neither as a photograph, nor in a question, nor as the source or target of an edit."
    mine, rest = keep_back(ten, 2)
    hidden = {p.tobytes() for p in rest.images}
    shown = [*mine.images, *(p for source, _, target in mine.edits for p in (source, target))]
    assert len(hidden) == 2 and not hidden & {p.tobytes() for p in shown}
    assert len(mine.images) == 4 and all(i < 4 for i, _, _ in mine.qa) and mine.facts == ten.facts
    assert len(ten.images) == 6 and len(ten.edits) > len(mine.edits)
    for n in (0, 4, "two"):
        with pytest.raises(OmniError, match="pictures="):
            keep_back(ten, n)
    with pytest.raises(OmniError):
        keep_back(ConceptData(ten.images[:1]), 1)


def test_early_stopping_ends_at_the_best_state(bb, ten):
    "A run that learns nothing is stopped after its patience; the state before the first step is as good as any."
    stop = EarlyStopping(ten, every=1, patience=2)
    concept = learn(bb, stop.data, "maeve", recipe=EXACT, steps=9, learning_rate=0.0, progress=False, callbacks=[stop])
    assert len(stop.checks) == 3 and concept.summary["stopped"] and concept.summary["steps"] == 0
    assert concept.summary["why"] == "early stopping after step 2: the best state is that of step 0"


def test_early_stopping_lets_a_good_run_go_on(bb, ten):
    "While losses fall, nothing is stopped, and looking changes nothing."
    few = dict(recipe=EXACT, steps=6, progress=False)
    stop = EarlyStopping(ten, every=3, patience=1, ends=False)
    watched = learn(bb, stop.data, "maeve", **few, callbacks=[stop])
    assert torch.equal(watched.embeddings, learn(bb, stop.data, "maeve", **few).embeddings)
    assert [c["step"] for c in stop.checks] == [0, 3, 6] and not stop.why and not watched.summary["stopped"]
    assert weighted_loss(stop.checks[stop.best[0] // 3], EXACT) == stop.lowest


def test_early_stopping_takes_the_best_state_at_the_end(bb, ten):
    "A run that gets worse ends, after its last step, at the state that was best."
    stop = EarlyStopping(ten, every=1, patience=50)
    bad = dict(recipe=EXACT, steps=4, learning_rate=30.0, warmup_steps=0, progress=False)
    concept = learn(bb, stop.data, "maeve", **bad, callbacks=[stop])
    losses = [weighted_loss(c, EXACT) for c in stop.checks]
    assert concept.summary["steps"] == len(concept.history) == losses.index(min(losses))


def test_one_loss_that_falls_is_enough():
    flat = [dict(step=i, recognise=0.1, facts=0.1, draw=0.3) for i in range(5)]
    assert checks_without_gain(flat) == 4
    assert checks_without_gain([*flat, dict(flat[0], draw=0.29)]) == 0
    assert checks_without_gain([*flat, dict(flat[0], draw=0.299, facts=0.09, recognise=0.09)]) == 5


# ---- speed --------------------------------------------------------------------------------------------------------
def test_products_are_counted_in_every_spelling():
    a, b = torch.ones(4, 6), torch.ones(6, 5)
    with ProductShapes() as seen:
        a @ b
        torch.addmm(torch.ones(5), a, b)
        torch.nn.functional.linear(a, b.T)
        torch.bmm(a[None], b[None])
    with torch.inference_mode(), ProductShapes() as inference:
        torch.nn.functional.linear(a, b.T)
        torch.nn.functional.scaled_dot_product_attention(*(torch.ones(2, 3, 7, 4) for _ in range(3)))
    assert seen.flops == 4 * 2 * 4 * 6 * 5 and seen.found == {("float32", 1, 4, 6, 5): 4}
    assert inference.flops == 2 * 4 * 6 * 5 + 2 * (2 * 2 * 3 * 7 * 4 * 7)


def test_the_rate_of_bare_products_on_a_made_up_clock():
    "Every product takes a second: 10 and 20 of them take 30."
    shapes = largest_shapes({("float32", 1, 300, 300, 300): 10, ("float32", 2, 300, 300, 300): 20}, share=1.0)
    ticks = iter(range(1000))
    assert product_seconds(shapes, repeats=3, clock=lambda: next(ticks)) == (30.0, 50 * 2 * 300**3)


def made_up_round(now, before):
    sides = (("now", now), ("before", before))
    return [dict(row="an answer", side=side, cpu=t, wall=3 * t) for side, t in sides] + [
        dict(row="an answer", rates=dict(own=4.0, float32=2.0))
    ]


def test_ratios_are_paired_by_round():
    "A machine that slows down in one round slows down both versions: the ratio stays."
    rounds = [made_up_round(t, 2 * t) for t in (1.0, 10.0, 2.0)]
    row = speed_bench.speed_report(rounds, {"an answer": dict(flops=4.0)})["an answer"]
    assert row["cpu"] == dict(median=2.0, spread=2.25, n=3) and row["cpu_ratio"] == dict(median=2.0, spread=0.0, n=3)
    assert row["share"]["median"] == 0.5 and row["wall"]["median"] == 6.0
    assert "2.00 +- 0.00" in speed_bench.speed_text({"an answer": row})


def test_rounds_of_another_machine_do_not_count(tmp_path):
    file = tmp_path / "speed.jsonl"
    for about in (dict(machine="a"), dict(machine="b")):
        steps_bench.keep_row(file, dict(about=about, measured=[1]))
    with file.open("a") as f:
        f.write('{"about": {"machine": "a"}, "measu')
    assert speed_bench.rounds_of(file, dict(machine="a")) == [[1]]
    assert speed_bench.rounds_of(tmp_path / "none.jsonl", {}) == []


def test_speed_runs_and_goes_on(tmp_path, capsys):
    "One round of two versions, the same one twice. A second run measures the second round only."
    small = dict(before=ROOT, pictures=1, steps=2)
    one = speed_bench.main(tmp_path / "speed.json", rounds=1, **small)
    two = speed_bench.main(tmp_path / "speed.json", rounds=2, **small)
    assert "1 of 2 rounds are in speed.jsonl" in capsys.readouterr().out
    assert json.loads((tmp_path / "speed.json").read_text())["rows"].keys() == two["rows"].keys() == one["rows"].keys()
    for name, row in two["rows"].items():
        assert row["cpu"]["n"] == row["cpu_ratio"]["n"] == 2 and row["cpu"]["median"] > 0, name
    assert {"learn, a step", "a drawing", "import, load, first answer"} < set(two["rows"])
    assert two["about"]["now"]["threads"] == 1 and two["about"]["now"]["sources"] == two["about"]["before"]["sources"]
    with pytest.raises(OmniError, match="no checkout of omnipersona"):
        speed_bench.SpeedProcess(tmp_path)


# ---- steps --------------------------------------------------------------------------------------------------------
def row(name, step, cpu, good, last, character=1):
    return dict(
        character=character,
        seed=0,
        name=name,
        lesson=f"{name}, {'end' if last else step}",
        step=step,
        cpu=cpu,
        last=last,
        scores=dict.fromkeys(QUALITY, good),
    )


def test_fronts_and_shares_of_made_up_rows():
    rows = [row("default", 10, 40, 0.9, False), row("default", 20, 80, 1.0, True), row("a", 10, 20, 0.95, True)]
    rows += [row("default", 20, 40, 1.0, True, 2), row("a", 10, 30, 0.85, True, 2), row("a", 9, 1, 1.0, True, 3)]
    points = points_of(rows)
    assert points["a, end"]["cpu"] == (20 / 80 + 30 / 40) / 2 and points["a, end"]["n"] == 2
    assert points["a, end"]["quality"] == pytest.approx(0.9)
    assert front_of(points) == ["a, end", "default, end"] or front_of(points)[-1] == "default, end"
    assert steps_to(rows)["fact QA"]["step"] == 20 and steps_to(rows, 0.9)["fact QA"]["step"] == 10
    with pytest.raises(OmniError, match="'default'"):
        points_of(rows[2:3])


def test_a_setting_without_changes_learns_as_learn_does(bb, data):
    learner = steps_bench.StepSetting(EXACT).learner(bb, data)
    while learner.global_step < EXACT.steps:
        learner.step()
    assert torch.equal(learner.concept.embeddings, learn(bb, data, "maeve", recipe=EXACT, progress=False).embeddings)


def test_rates_of_row_groups(bb, data):
    "A group with rate 0 stays; a group with twice the rate moves as with twice the learning rate."
    still = steps_bench.StepSetting(EXACT, rates=(1.0, 0.0, 1.0)).learner(bb, data)
    before = still.concept.embeddings.detach().clone()
    still.step()
    moved = (still.concept.embeddings.detach() - before).abs().sum(1)
    n = EXACT.n_und
    assert moved[0] > 0 and not moved[1 : 1 + n].any() and moved[1 + n :].all()
    with pytest.raises(OmniError, match="no schedule"):
        steps_bench.StepSetting(EXACT, "sudden").learner(bb, data)


def test_the_study_of_steps_goes_on(tmp_path, capsys):
    settings = {"default": steps_bench.StepSetting(replace(SHORT, steps=2, samples=SamplesPerStep(1, 0, 1, 0, 0)))}
    small = dict(characters=(123,), n=2, scored_at=(1,))
    first = steps_bench.main(tmp_path / "steps.json", settings=settings, **small)
    more = settings | {"early stop": replace(settings["default"], early=True)}
    again = steps_bench.main(tmp_path / "steps.json", settings=more, **small)
    assert "1 runs to learn, 1 are in steps.jsonl" in capsys.readouterr().out
    assert set(first["points"]) == {"default, step 1", "default, end"}
    assert set(again["points"]) == {"default, step 1", "default, end", "early stop, end"}
    assert again["points"]["default, end"] == first["points"]["default, end"]


# ---- growth -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make,value", [(growth_bench.by_side, 64), (growth_bench.by_facts, 2)])
def test_growth_in_the_official_layout(make, value):
    point = growth_bench.growth_point(make, value, repeats=1)
    assert len(point) == 2 and all(m["seconds"] > 0 for m in point.values())


def test_growth_reports_exponents():
    points = [dict(axis="n", value=v, work={"w": dict(seconds=v**2, mb=None)}) for v in (8, 2, 4)]
    found = growth_bench.growth_report(points)["n"]["w"]
    assert (
        found["values"] == [2, 4, 8] and found["time exponent"] == pytest.approx(2) and "memory exponent" not in found
    )


# ---- a class ------------------------------------------------------------------------------------------------------
def test_a_class_is_computed_from_a_report():
    rows = {name: dict(cpu=dict(median=1.0)) for name in (*WORK.values(), "learn, a step")}
    once = {what: 1 for what in (*WORK, "concepts")}
    plan = ClassPlan(100, once, once, crowded=2.0, steps=6)
    found = class_estimate(rows, dict(memory_gb=0.5, folder_mb=10.0), plan)
    assert found["session_core_hours"] == 100 * (4 + 6) * 2 / 3600 and found["memory_gb"] == 50.0
    assert found["disk_gb"] == 1.0 and found["all_at_once"][16] == 6 * 2 * 100 / 16
    assert found["all_at_once"][500] == 6 * 2
    text = class_text(found, plan, "a machine")
    assert all(word in text for word in ("assumed", "computed", "a machine"))
    with pytest.raises(OmniError, match="not in the report"):
        class_estimate({}, dict(memory_gb=1, folder_mb=1))


def test_recipes_have_their_old_defaults():
    "Early stopping and settings of the study are options: nothing of them is a default."
    assert Recipe() == steps_bench.STEP_SETTINGS["default"].recipe and not steps_bench.StepSetting().early
