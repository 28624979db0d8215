"Two comparisons under conditions: right recipes and data, paired differences, and nothing measured twice."

import numpy as np
import pytest

import omnipersona.bench.conditions_bench as bench
from omnipersona.basics import OmniError
from omnipersona.bench.crosstask_bench import keep_row
from omnipersona.bench.crosstask_report import SHOWN
from omnipersona.concept.losses import Recipe
from omnipersona.model.loading import load_backbone
from omnipersona.toyworld.world import ToyWorld


def test_a_condition_changes_what_it_says_and_nothing_else():
    assert bench.condition("default") == bench.condition("default", "with edits") == (Recipe(), None)
    few = Recipe(steps=7, routing="coupled", n_und=2, n_gen=2)
    assert bench.condition("2 + 2 tokens", "coupled", 7)[0] == few
    heavy = Recipe(lambda_image=100.0, lambda_edit=100.0)
    assert bench.condition("pictures weigh 100")[0] == heavy
    bare = bench.condition("no drawing", "without edits")[0]
    assert bare.samples.draw == bare.samples.edit == 0 and bare.samples.facts == Recipe().samples.facts
    with pytest.raises(OmniError, match="'none': no condition of 'coupled'; one of default, 2"):
        bench.condition("none", "coupled")
    with pytest.raises(OmniError, match="'no drawing': no condition of 'coupled'"):
        bench.condition("no drawing", "coupled")
    with pytest.raises(OmniError, match="no such side"):
        bench.condition("default", "neither")


def test_edits_told_backwards_end_in_the_photograph():
    data = ToyWorld().concept_data(ToyWorld().character(7), 4, 0)
    told = bench.adding(data)
    new = told.edits[len(data.edits) :]
    gone = [e for e in data.edits if e[1] == "remove <sks> from the photo"]
    assert told.edits[: len(data.edits)] == data.edits and len(new) == len(gone) == 4
    for (a, said, b), (source, _, target) in zip(new, gone):
        assert said == "add <sks>" and a == target and b == source
    assert told.images == data.images and told.facts == data.facts


def made_up_rows(cs, gains, sides=("decoupled", "coupled")):
    "{lesson: row} of a character: the first side has the gain of its condition."
    return {
        f"{k}, {side}": dict(scores={s: 0.2 + 0.1 * cs + (gain if side == sides[0] else 0) for s in SHOWN})
        for k, gain in gains.items()
        for side in sides
    }


def test_differences_are_taken_in_pairs():
    edits = ("with edits", "without edits")
    report = bench.conditions_report(
        [
            made_up_rows(0, {"x": 0.1, "y": -0.1}) | made_up_rows(0, {"z": 0.2}, edits),
            made_up_rows(3, {"x": 0.3, "y": -0.1}) | made_up_rows(3, {"z": 0.2}, edits),
        ]
    )
    assert list(report) == ["routing", "editing data"]
    assert list(report["routing"]) == ["x", "y"] and list(report["editing data"]) == ["z"]
    fact = {k: v["fact QA"] for by_condition in report.values() for k, v in by_condition.items()}
    assert {k: round(v["difference"], 6) for k, v in fact.items()} == {"x": 0.2, "y": -0.1, "z": 0.2}
    assert fact["x"]["n"] == 2
    text = bench.conditions_text(report)
    assert "+0.200" in text and "-0.100" in text and "n = 2" in text and "without edits" in text
    figure = bench.conditions_figure(report)
    assert len(figure.axes) == len(SHOWN)
    assert np.allclose(figure.axes[0].lines[0].get_xdata(), [0.2 + 0.15 + 0.2, 0.2 + 0.15 - 0.1])  # means
    labels = bench.conditions_figure(report, "editing data").axes[0].get_yticklabels()
    assert [t.get_text() for t in labels] == ["z"]
    with pytest.raises(OmniError, match="no character and seed"):
        bench.conditions_report([])


def test_what_is_measured_stays(tmp_path, monkeypatch):
    asked = []

    def score(cs, seed, lesson, steps, n, file):
        asked.append((cs, *lesson.rsplit(", ", 1)))
        key = bench.conditions_key(load_backbone("tiny"), steps, n)
        keep_row(file, dict(character=cs, seed=seed, lesson=lesson, **key, scores={s: 0.5 for s in SHOWN}))

    def run(*conditions, steps=2):
        questions = {"routing": (conditions, ("decoupled", "coupled"))}
        bench.main(tmp_path / "c.json", n_characters=1, steps=steps, questions=questions, jobs=1)

    monkeypatch.setattr(bench, "score_condition", score)
    run("2 + 2 tokens")
    assert len(asked) == 2
    run("2 + 2 tokens", "random start")
    assert [a[1] for a in asked[2:]] == ["random start"] * 2
    run("2 + 2 tokens", steps=3)
    assert len(asked) == 6  # other steps are another measurement
