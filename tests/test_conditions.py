"Two comparisons under conditions: right recipes and data, paired differences, and nothing measured twice."

import numpy as np
import pytest

import omnipersona.bench.conditions_bench as B
from omnipersona.basics import OmniError
from omnipersona.concept.losses import Recipe
from omnipersona.toyworld.world import ToyWorld


def test_a_condition_changes_what_it_says_and_nothing_else():
    assert B.condition("default") == B.condition("default", "with edits") == (Recipe(), None)
    assert B.condition("2 + 2 tokens", "coupled", 7)[0] == Recipe(steps=7, routing="coupled", n_und=2, n_gen=2)
    r = B.condition("no drawing", "without edits")[0]
    assert r.samples.draw == r.samples.edit == 0 and r.samples.facts == Recipe().samples.facts
    with pytest.raises(OmniError, match="'none': no condition of 'coupled'; one of default, 2"):
        B.condition("none", "coupled")
    with pytest.raises(OmniError, match="'no drawing': no condition of 'coupled'"):
        B.condition("no drawing", "coupled")
    with pytest.raises(OmniError, match="no such side"):
        B.condition("default", "neither")


def test_edits_told_backwards_end_in_the_photograph():
    data = ToyWorld().concept_data(ToyWorld().character(7), 4, 0)
    told = B.adding(data)
    new = told.edits[len(data.edits) :]
    gone = [e for e in data.edits if e[1] == "remove <sks> from the photo"]
    assert told.edits[: len(data.edits)] == data.edits and len(new) == len(gone) == 4
    for (a, said, b), (source, _, target) in zip(new, gone):
        assert said == "add <sks>" and a is target and b is source
    assert told.images == data.images and told.facts == data.facts


def rows(cs, d, sides=("decoupled", "coupled")):
    return {
        f"{k}, {r}": dict(scores={s: 0.2 + 0.1 * cs + (d[k] if r == sides[0] else 0) for s in B.SHOWN})
        for k in d
        for r in sides
    }


def test_differences_are_taken_in_pairs():
    edits = ("with edits", "without edits")
    r = B.conditions_report(
        [
            rows(0, {"x": 0.1, "y": -0.1}) | rows(0, {"z": 0.2}, edits),
            rows(3, {"x": 0.3, "y": -0.1}) | rows(3, {"z": 0.2}, edits),
        ]
    )
    assert (
        list(r) == ["routing", "editing data"] and list(r["routing"]) == ["x", "y"] and list(r["editing data"]) == ["z"]
    )
    fact = {k: v["fact QA"] for q in r.values() for k, v in q.items()}
    assert (
        fact["x"]["difference"] == pytest.approx(0.2)
        and fact["y"]["difference"] == pytest.approx(-0.1)
        and fact["z"]["difference"] == pytest.approx(0.2)
        and fact["x"]["n"] == 2
    )
    text = B.conditions_text(r)
    assert "+0.200" in text and "-0.100" in text and "n = 2" in text and "without edits" in text
    f = B.conditions_figure(r)
    assert len(f.axes) == len(B.SHOWN)
    means = f.axes[0].lines[0].get_xdata()
    assert np.allclose(means, [0.2 + 0.15 + 0.2, 0.2 + 0.15 - 0.1])
    assert [t.get_text() for t in B.conditions_figure(r, "editing data").axes[0].get_yticklabels()] == ["z"]
    with pytest.raises(OmniError, match="no character and seed"):
        B.conditions_report([])


def test_what_is_measured_stays(tmp_path, monkeypatch):
    asked = []

    def scored(cs, seed, lesson, steps, n, file):
        asked.append((cs, *lesson.rsplit(", ", 1)))
        B.keep_row(
            file,
            dict(
                character=cs,
                seed=seed,
                lesson=lesson,
                **B._about(B.load_backbone("tiny"), steps, n),
                scores={s: 0.5 for s in B.SHOWN},
            ),
        )

    monkeypatch.setattr(B, "condition_scored", scored)
    of = lambda *conditions: {"routing": (conditions, ("decoupled", "coupled"))}
    B.main(tmp_path / "c.json", n_characters=1, steps=2, questions=of("2 + 2 tokens"), jobs=1)
    assert len(asked) == 2
    B.main(tmp_path / "c.json", n_characters=1, steps=2, questions=of("2 + 2 tokens", "random start"), jobs=1)
    assert [a[1] for a in asked[2:]] == ["random start"] * 2
    B.main(tmp_path / "c.json", n_characters=1, steps=3, questions=of("2 + 2 tokens"), jobs=1)
    assert len(asked) == 6  # other steps are another measurement
