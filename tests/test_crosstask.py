"Cross-task effects: gradients that add up, cosines that mean what they say, matrices that are counted right."

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import SHORT, unchanged, weights

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn
from omnipersona.concept.learner import Learner
from omnipersona.concept.losses import LOSS_GROUPS, Recipe, group_losses, task_losses
from omnipersona.concept.sampling import TASKS, EncodedData, SamplesPerStep, step_samples
from omnipersona.data import ConceptData
from omnipersona.inside.crosstask import (
    ConflictProbe,
    conflict_figure,
    conflict_summary,
    cosines,
    gradient_conflict,
    minus_row,
    propagation_figure,
    score_matrix,
    task_gradients,
)


@pytest.fixture(scope="module")
def enc(bb, data):
    return EncodedData(bb, data)


@pytest.fixture(scope="module")
def batch(enc):
    return step_samples(enc, SamplesPerStep(copies=2), torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def conflict(bb, data):
    return gradient_conflict(bb, data, recipe=SHORT, every=3, draws=1)


# ---- tasks alone, tasks left out ----------------------------------------------------------------------------------
def test_a_mix_of_some_tasks():
    m = SamplesPerStep(recognise=3, draw=4)
    assert m.only("draw", "vqa") == SamplesPerStep(recognise=0, vqa=1, facts=0, draw=4, edit=0)
    assert m.only(*TASKS) == m.without() == m
    assert m.without("draw") == replace(m, draw=0) and m.only("draw").without("draw") == m.only()
    for f in (m.only, m.without):
        with pytest.raises(OmniError, match="'drawing': no task; one of recognise"):
            f("drawing")


def test_what_is_left_out_is_not_learnt(bb, data):
    for mix, kinds in (
        (SamplesPerStep().only("facts"), {"facts"}),
        (SamplesPerStep().without("edit", "draw"), {"recognise", "vqa", "facts"}),
        (SamplesPerStep().only("edit"), {"edit"}),
    ):
        c = learn(bb, data, recipe=replace(SHORT, steps=2, samples=mix), progress=False)
        assert set(c.history[-1]) == kinds | {"step"}
    with pytest.raises(OmniError, match="nothing to learn from: facts"):
        learn(
            bb, ConceptData(data.images), recipe=replace(SHORT, samples=SamplesPerStep().only("facts")), progress=False
        )


# ---- gradients ----------------------------------------------------------------------------------------------------
def test_gradients_add_up_to_the_learners(bb, concept, batch):
    "Weights included, and nothing of them is left behind."
    recipe, before, c = (
        Recipe(lambda_image=2.0, lambda_edit=0.5),
        weights(bb.model),
        Concept(bb, "maeve", concept.embeddings.detach().clone()).requires_grad_(False),
    )
    g = task_gradients(bb, c, batch, recipe)
    assert list(g) == list(LOSS_GROUPS)
    assert all(v.shape == c.embeddings.shape for v in g.values())
    assert not c.embeddings.requires_grad
    assert c.embeddings.grad is None
    assert unchanged(bb.model, before)
    sum(group_losses(task_losses(bb, c.requires_grad_(True), batch), recipe).values()).backward()
    assert torch.allclose(sum(g.values()), c.embeddings.grad, rtol=1e-3, atol=1e-6)
    assert torch.equal(concept.embeddings, c.embeddings)


def test_a_weight_lengthens_its_own_gradient_only(bb, concept, batch):
    a, b = (
        task_gradients(bb, concept, batch, Recipe(lambda_image=1.0)),
        task_gradients(bb, concept, batch, Recipe(lambda_image=3.0)),
    )
    assert torch.allclose(b["generation"], 3 * a["generation"], rtol=1e-3, atol=1e-6)
    assert torch.allclose(b["editing"], a["editing"], rtol=1e-3, atol=1e-6)
    assert torch.allclose(b["understanding"], a["understanding"], rtol=1e-3, atol=1e-6)


def test_only_tasks_with_samples_have_a_gradient(bb, concept, batch):
    assert list(task_gradients(bb, concept, {k: batch[k] for k in ("facts", "edit")})) == ["understanding", "editing"]


def test_gradient_is_the_slope_of_the_loss(bb, concept, batch):
    "By finite differences, along the gradient itself."
    g = task_gradients(bb, concept, batch)["understanding"]
    d = g / g.norm()

    def loss(e):
        with torch.no_grad():
            return float(
                group_losses(
                    task_losses(bb, Concept(bb, "maeve", concept.embeddings.detach() + e * d), batch), Recipe()
                )["understanding"]
            )

    assert (loss(0.02) - loss(-0.02)) / 0.04 == pytest.approx(float(g.norm()), rel=0.05)


def test_cosines():
    assert np.allclose(cosines([[1, 2], [3, 0], [0, 0], [1, 0]], [[2, 4], [-1, 0], [1, 1], [0, 5]]), [1, -1, 0, 0])


# ---- along training -----------------------------------------------------------------------------------------------
def test_what_a_probe_records(bb, concept, conflict):
    r = json.loads(json.dumps(conflict))
    T, P = (3, 33), 3
    assert r == conflict
    assert r["steps"] == [1, 3, 6]
    assert r["tasks"] == list(LOSS_GROUPS)
    assert r["routing"] == "decoupled"
    assert len(r["pairs"]) == P
    assert r["tokens"][0] == "<sks>"
    cos, rel, length = (np.asarray(r[k]) for k in ("cosine", "reliability", "length"))
    assert cos.shape == (*T, P)
    assert rel.shape == length.shape == (*T, 3)
    assert abs(cos).max() <= 1
    assert abs(rel).max() <= 1
    assert (length >= 0).all()
    assert length.max() > 0


def test_a_probe_does_not_change_what_is_learnt(bb, data, concept):
    probe = ConflictProbe(every=2, draws=1)
    watched = learn(bb, data, "maeve", recipe=SHORT, progress=False, callbacks=[probe])
    assert torch.allclose(watched.embeddings, concept.embeddings, atol=1e-3)
    assert watched.summary["steps"] == SHORT.steps
    assert len(probe.history) == 4


def test_equal_samples_at_every_step(bb, data, enc):
    "With rows that stand still the cosines stand still."
    L = Learner(bb, data, "maeve", recipe=SHORT, encoded=enc)
    probe = ConflictProbe(1, 1)
    for s in (1, 2):
        L.global_step = s
        probe(L)
    r = probe.result
    assert np.allclose(r["cosine"][0], r["cosine"][1], atol=1e-3)
    assert np.allclose(r["length"][0], r["length"][1], rtol=1e-3, atol=1e-5)


def test_one_kind_of_task_has_nobody_to_disagree_with(bb, data):
    with pytest.raises(OmniError, match="understanding is the only kind of task"):
        gradient_conflict(bb, data, recipe=replace(SHORT, samples=SamplesPerStep().only("facts", "vqa")))
    with pytest.raises(OmniError, match="nothing was recorded"):
        ConflictProbe().result


def test_summary_of_conflicts(conflict):
    s = conflict_summary(conflict)
    assert set(s) == {"name", "und", "gen"}
    for g in s.values():
        assert sum(g[f"{t}, share"] for t in LOSS_GROUPS) == pytest.approx(1)
        assert all(0 <= v <= 1 for k, v in g.items() if k.endswith(("opposed", "share")))
    made = dict(
        tokens=["<a>", "und 1", "gen 1"],
        pairs=["x / y"],
        tasks=["x", "y"],
        cosine=[[[1], [0.5], [-0.5]], [[1], [0.1], [0.3]]],
        length=[[[1, 3], [2, 2], [0, 4]]] * 2,
        reliability=[[[1, 1]] * 3] * 2,
    )
    s = conflict_summary(made)
    assert s["und"] == pytest.approx(
        {"x / y": 0.3, "x / y, opposed": 0, "x, share": 0.5, "y, share": 0.5, "x, reliability": 1, "y, reliability": 1}
    )
    assert s["gen"]["x / y"] == pytest.approx(-0.1)
    assert s["gen"]["x / y, opposed"] == 0.5
    assert s["gen"]["y, share"] == 1
    assert s["name"]["x, share"] == 0.25


def test_figure_of_conflicts(conflict):
    two = dict(
        conflict,
        tasks=conflict["tasks"][:2],
        pairs=conflict["pairs"][:1],
        cosine=np.asarray(conflict["cosine"])[:, :, :1].tolist(),
        length=np.asarray(conflict["length"])[:, :, :2].tolist(),
        reliability=np.asarray(conflict["reliability"])[:, :, :2].tolist(),
    )
    f = conflict_figure([conflict, two])
    assert len(f.axes) == 2 * 4 + 1 and conflict["pairs"][0] in f.axes[0].get_title()
    assert len(conflict_figure(two).axes) == 3


# ---- taught here, measured there ----------------------------------------------------------------------------------
CELLS = [
    {"nothing": {"A": 0.0, "B": 0.5}, "A": {"A": 1.0, "B": 0.5}},
    {"nothing": {"A": 0.2, "B": 0.5}, "A": {"A": 0.6, "B": 1.0}},
]


def test_matrix_of_scores():
    m = score_matrix(CELLS, dict(replay=True))
    assert json.loads(json.dumps(m)) == m
    assert (m["n"], m["replay"], m["rows"], m["columns"]) == (
        2,
        True,
        ["nothing", "A"],
        ["A", "B"],
    )
    assert m["mean"] == [[0.1, 0.5], [0.8, 0.75]]
    assert m["sd"][0] == pytest.approx([0.1414, 0], abs=1e-4)
    assert score_matrix(CELLS[:1])["sd"] == [[0, 0], [0, 0]]
    less = minus_row(m, "nothing")
    assert less["rows"] == ["A"]
    assert less["mean"] == [[0.7, 0.25]]
    assert less["minus"] == "nothing"
    assert "sd" not in less
    assert m["rows"] == ["nothing", "A"]


def test_bad_matrices():
    with pytest.raises(OmniError, match="no cells"):
        score_matrix([])
    with pytest.raises(OmniError, match="the cells differ"):
        score_matrix([*CELLS, {"nothing": {"A": 0.0}, "A": {"A": 1.0, "B": 0.0}}])
    with pytest.raises(OmniError, match="'all': no row"):
        minus_row(score_matrix(CELLS), "all")


def test_figure_of_matrices():
    m = score_matrix(CELLS, dict(replay=False))
    f = propagation_figure([m, minus_row(m, "nothing")])
    a, b = f.axes
    assert [t.get_text() for t in a.texts] == ["0.10\n±0.14", "0.50\n±0.00", "0.80\n±0.28", "0.75\n±0.35"]
    assert [t.get_text() for t in b.texts] == ["+0.70", "+0.25"]
    assert a.get_title() == "without replay, n = 2" and "less 'nothing'" in b.get_title()
