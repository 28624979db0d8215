"Learning where memory and scales are those of a large model: parts, rows of two scales, names, photographs kept back."

import json
from dataclasses import replace

import pytest
import torch
from helpers import random_backbone

from omnipersona.basics import OmniError
from omnipersona.bench.bagel_bench import random_bagel
from omnipersona.concept import learner as learner_module
from omnipersona.concept import losses as losses_module
from omnipersona.concept.concept import Concept, Concepts
from omnipersona.concept.learn import learn
from omnipersona.concept.learner import Diverged, Learner
from omnipersona.concept.losses import (
    ROW_RMS,
    Recipe,
    group_losses,
    held_out_losses,
    learn_in_parts,
    row_rates,
    step_parts,
    task_losses,
)
from omnipersona.concept.rates import RATES, REAL_RECIPE, search_rates
from omnipersona.concept.replay import Replay, ReplayConfig
from omnipersona.concept.requests import replace_spoken, restore_spoken
from omnipersona.concept.sampling import EncodedData, SamplesPerStep, hold_out, step_samples
from omnipersona.model.bagel import SMALL
from omnipersona.model.loading import load_backbone
from omnipersona.model.memory import plan
from omnipersona.model.segments import Text

EXACT = Recipe(steps=6, warmup_steps=2, precision="float32")


@pytest.fixture(scope="module")
def bb():
    return random_backbone()


@pytest.fixture(scope="module")
def bagel():
    return random_bagel(SMALL, None, torch.float32, image_size=64)


def a_step(bb, data, seed=0):
    learner = Learner(bb, data, "maeve", recipe=EXACT)
    return learner.concept, step_samples(learner.encoded, EXACT.samples, torch.Generator().manual_seed(seed))


def gradient(concept, act):
    concept.embeddings.grad = None
    said = act()
    return concept.embeddings.grad.clone(), said


# ---- logits of labelled tokens only, and one part after the other -------------------------------------------------
def scored_everywhere(true):
    "`last_states` with every und token among those that are wanted; the others' words get the weight 0."

    def states(model, batches, caches, wanted, *args, **kwargs):
        every = torch.arange(sum(b.ids.numel() for b in batches))
        und, gen = true(model, batches, caches, (every, wanted[1]), *args, **kwargs)
        return und[wanted[0]], gen

    return states


def test_only_labelled_words_are_scored(bb, data, monkeypatch):
    concept, batch = a_step(bb, data)
    labelled = sum(len(s.ids) + 1 for t in ("recognise", "vqa", "facts") for x in batch[t] for s in x if _says(s))
    scored, true = [], bb.model.logits
    monkeypatch.setattr(bb.model, "logits", lambda h: scored.append(h.shape[:-1].numel()) or true(h))

    def loss():
        sum(group_losses(task_losses(bb, concept, batch), EXACT).values()).backward()

    few, _ = gradient(concept, loss)
    assert sum(scored) == labelled
    kept, last = [], bb.model.language_model.model.layers[-1].mlp
    hook = last.register_forward_hook(lambda module, inputs, output: kept.append(len(output)))
    gradient(concept, loss)
    monkeypatch.setattr(losses_module, "last_states", scored_everywhere(losses_module.last_states))
    every, _ = gradient(concept, loss)
    hook.remove()
    assert kept[0] == labelled and kept[1] > 5 * labelled
    assert float((few - every).norm() / every.norm()) < 1e-5


def _says(segment):
    return isinstance(segment, Text) and segment.loss


@pytest.mark.parametrize("at_once", [1, 5])
def test_words_are_scored_some_at_a_time(bb, data, monkeypatch, at_once):
    concept, batch = a_step(bb, data)

    def loss():
        losses = task_losses(bb, concept, batch)
        sum(group_losses(losses, EXACT).values()).backward()
        return {t: float(x) for t, (x, _) in losses.items()}

    want, said = gradient(concept, loss)
    monkeypatch.setattr(losses_module, "WORDS_AT_ONCE", at_once)
    got, again = gradient(concept, loss)
    assert torch.allclose(want, got, rtol=1e-4, atol=1e-7) and said == pytest.approx(again, rel=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("most", [None, 300, 1])
def test_parts_have_the_gradient_of_the_whole(bb, data, most, checkpointing):
    concept, batch = a_step(bb, data)
    bb.model.gradient_checkpointing = checkpointing

    def whole():
        losses = task_losses(bb, concept, batch)
        sum(group_losses(losses, EXACT).values()).backward()
        return {t: (float(x), n) for t, (x, n) in losses.items()}

    def parts():
        return {t: (float(x), n) for t, (x, n) in learn_in_parts(bb, concept, batch, EXACT, most=most).items()}

    try:
        (want, said), (got, again) = gradient(concept, whole), gradient(concept, parts)
    finally:
        bb.model.gradient_checkpointing = False
    assert float((want - got).norm() / want.norm()) < 1e-5
    assert {t: n for t, (_, n) in said.items()} == {t: n for t, (_, n) in again.items()}
    assert {t: x for t, (x, _) in said.items()} == pytest.approx({t: x for t, (x, _) in again.items()}, rel=1e-5)


def test_shares_add_up_in_parts(bb, data):
    "Two processes, of which one may have nothing to do in a part."
    concept, batch = a_step(bb, data)
    want, _ = gradient(concept, lambda: learn_in_parts(bb, concept, batch, EXACT, most=1))
    for n in (2, 12):
        each = [
            gradient(concept, lambda i=i: learn_in_parts(bb, concept, batch, EXACT, slice(i, None, n), 1))[0]
            for i in range(n)
        ]
        assert torch.allclose(sum(each), want, rtol=1e-4, atol=1e-7)


def test_a_part_is_small(bb, data):
    "Short samples do not stand beside long ones, and nothing is left out."
    _, batch = a_step(bb, data)
    parts = step_parts(batch, most=150)
    assert all(p.tokens <= 150 or len(p.samples) == 1 for p in parts)
    assert sum(len(p.samples) for p in parts) == sum(map(len, batch.values()))
    assert len(step_parts(batch)) == 4


def test_the_learner_takes_parts_where_a_step_is_large(bb, data, monkeypatch):
    "A small step is computed at once, as ever; a large one in parts, with the same result up to rounding."
    called = []

    def counted(*args, **kwargs):
        called.append(1)
        return learn_in_parts(*args, **kwargs)

    monkeypatch.setattr(learner_module, "learn_in_parts", counted)
    at_once = learn(bb, data, "maeve", recipe=EXACT, progress=False)
    assert not called
    monkeypatch.setattr(learner_module, "PART_TOKENS", 100)
    in_parts = learn(bb, data, "maeve", recipe=EXACT, progress=False)
    assert len(called) == EXACT.steps
    assert float((at_once.embeddings - in_parts.embeddings).norm() / at_once.embeddings.norm()) < 1e-4


# ---- rows of two scales -------------------------------------------------------------------------------------------
def test_a_small_row_is_not_overrun(bagel, data):
    "The name begins near .015 and und tokens near .7: one step moves none of them by more than a share of its size."
    learner = Learner(bagel, data, "rex", recipe=replace(EXACT, learning_rate=1e-2, warmup_steps=0))
    rows = learner.concept.embeddings.data
    scale = torch.tensor([0.015, *[0.7] * 16, *[0.1] * 16])[:, None]
    rows.copy_(torch.nn.functional.normalize(torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))))
    rows.mul_(scale * rows.shape[1] ** 0.5)
    learner.row_rates = row_rates(rows)
    before = rows.clone()
    for _ in range(3):
        learner.step()
    moved = ((rows - before).norm(dim=1) / before.norm(dim=1)) / 3
    assert float(moved.max()) < 0.05 and float(moved[0]) > 0.01


def test_tiny_learns_with_the_plain_rate(data):
    bb = load_backbone("tiny", device="cpu")
    assert row_rates(Learner(bb, data, "maeve").concept.embeddings.detach()).eq(1).all()
    assert row_rates(torch.full((1, 8), ROW_RMS / 2)).item() == pytest.approx(0.5)
    assert row_rates(torch.zeros(1, 8)).item() > 0


# ---- names that the model can write -------------------------------------------------------------------------------
def replayed(bb, monkeypatch, request):
    "Replay of a model that copies the request into a question. What it read and said."
    concepts = Concepts(bb, [Concept(bb, "maeve")])
    read = []

    def copies(samples, concept, n, cache=None):
        read.extend(samples)
        texts = [bb.tok.decode(s[-1].ids) for s in samples]
        words = [t.split("request : ")[-1].split(" question :")[0].split(" rewrite")[0] for t in texts]
        said = [
            "what is " + w.removeprefix("a photo of ") + " ?" if "question" in t else w for t, w in zip(texts, words)
        ]
        return [(s, _Said(bb.tok(s))) for s in said]

    monkeypatch.setattr(bb, "generate_text", copies)
    return Replay(bb, concepts, ReplayConfig(2)).intents([request])[0], read


class _Said:
    finished = True

    def __init__(self, ids):
        self.ids, self.logprobs = ids, [0.0] * len(ids)


def test_replay_writes_names_that_bagel_can_write(bagel, monkeypatch):
    "No text that the model continues or writes holds a reserved name: its output row is untrained."
    (question, stage), read = replayed(bagel, monkeypatch, "a photo of the toy of <maeve>")
    first = bagel.tok(bagel.tok.names[0])[0]
    assert all(i < first for sample in read for s in sample for i in s.ids)
    assert all(i < first for i in stage.ids)
    assert question == "what is the toy of <maeve> ?" and stage.problem == ""


def test_replay_of_tiny_keeps_its_names(monkeypatch):
    bb = load_backbone("tiny", device="cpu")
    (question, _), read = replayed(bb, monkeypatch, "a photo of the toy of <maeve>")
    assert question == "what is the toy of <maeve> ?"
    assert bb.tok("<name_0>")[0] in read[0][-1].ids


def test_names_in_answers_are_written_too(bagel, data):
    "What is learnt as an answer holds no word that the model cannot say."
    told = replace(data, facts=dict(friend="<sks> the second"))
    answer = EncodedData(bagel, told, "maeve").facts[0][1]
    assert bagel.tok.decode(answer) == "maeve the second"


@pytest.mark.parametrize(
    "said,means",
    [
        ("Maeve's toy", "<maeve>'s toy"),
        ("maevelike and re-maeve", "maevelike and re-maeve"),
        ("<maeve> and maeve", "<maeve> and <maeve>"),
    ],
)
def test_a_name_is_a_whole_word(bagel, said, means):
    concepts = Concepts(bagel, [Concept(bagel, "maeve")])
    assert restore_spoken(bagel, said, concepts) == means
    assert replace_spoken(bagel, "draw <maeve>", concepts) == "draw maeve"


# ---- the same photographs, the same latents -----------------------------------------------------------------------
def test_a_resumed_run_learns_from_the_same_latents(bagel, data, tmp_path):
    "The autoencoder samples: never from torch's own generator."
    stop = dict(callbacks=[lambda run: run.global_step >= 3], output_dir=tmp_path, progress=False)
    torch.manual_seed(1)
    learn(bagel, data, "rex", recipe=EXACT, **stop)
    torch.manual_seed(2)
    resumed = learn(bagel, data, "rex", recipe=EXACT, output_dir=tmp_path, progress=False)
    torch.manual_seed(3)
    straight = learn(bagel, data, "rex", recipe=EXACT, progress=False)
    assert torch.equal(resumed.embeddings, straight.embeddings) and resumed.history == straight.history


def test_a_notebook_can_be_run_again_anywhere(bb, data, tmp_path):
    "The cell that stops half way and the cell that goes on, in any order and after the end."
    run = dict(recipe=EXACT, output_dir=tmp_path, save_steps=2, progress=False)
    half = dict(callbacks=[lambda run: run.global_step >= 3])
    learn(bb, data, "rex", **run, **half)
    done = learn(bb, data, "rex", **run)
    for again in (half, {}, half):
        concept = learn(bb, data, "rex", **run, **again)
        assert concept.summary["steps"] == EXACT.steps and not concept.summary["stopped"]
        assert torch.equal(concept.embeddings, done.embeddings) and concept.history == done.history
    with pytest.warns(UserWarning, match="has learnt 6 steps already"):
        fewer = learn(bb, data, "rex", **run, steps=3)
    assert fewer.summary["steps"] == 6 and torch.equal(fewer.embeddings, done.embeddings)
    more = learn(bb, data, "rex", **run, steps=8)
    assert more.summary["steps"] == 8 and more.history[:6] == done.history


# ---- photographs that are kept back -------------------------------------------------------------------------------
def test_photographs_are_kept_back(bb, world):
    data = world.concept_data(world.character(seed=123), n_images=6, seed=0)
    train, rest = hold_out(data, 2)
    assert [len(d.images) for d in (train, rest)] == [4, 2] and len(train.qa) + len(rest.qa) == len(data.qa)
    assert all(rest.images[i] in data.images and rest.images[i] not in train.images for i in range(2))
    pixels = [{p.tobytes() for p in d.others} for d in (train, rest)]
    assert not pixels[0] & pixels[1]
    for d in (train, rest):  # a question still stands beside its own picture
        for i, q, a in d.qa:
            assert any(d.images[i] == data.images[j] and (q, a) == (x, y) for j, x, y in data.qa)
    for bad in (6, -1, 1.5):
        with pytest.raises(OmniError, match="there are 6 photographs"):
            hold_out(data, bad)


def test_the_summary_reports_on_them(bb, world):
    data = world.concept_data(world.character(seed=123), n_images=4, seed=0)
    concept = learn(bb, data, "maeve", recipe=EXACT, held_out=1, progress=False)
    assert set(concept.summary["held_out"]) == {"recognise", "vqa", "draw"} and concept.summary["data"]["images"] == 3
    rest = EncodedData(bb, hold_out(data, 1)[1], "maeve")
    assert held_out_losses(bb, concept, rest, EXACT.samples) == concept.summary["held_out"]
    assert json.loads(json.dumps(concept.summary["held_out"])) == concept.summary["held_out"]
    assert "held_out" not in learn(bb, data, "maeve", recipe=replace(EXACT, steps=1), progress=False).summary
    assert held_out_losses(bb, concept, rest, SamplesPerStep(vqa=0, draw=0)).keys() == {"recognise"}


# ---- a search before the long run ---------------------------------------------------------------------------------
QUICK_SEARCH = dict(rates=(1e-3, 3e-2), steps=3, held_out=1)


def test_the_search_compares_rates(bb, world, tmp_path, monkeypatch):
    "A table, a choice, and no trial twice."
    data = world.concept_data(world.character(seed=123), n_images=4, seed=0)
    found = search_rates(bb, data, "maeve", **QUICK_SEARCH, recipe=EXACT, output_dir=tmp_path)
    assert [t.rate for t in found.trials] == [1e-3, 3e-2] and found.best in (1e-3, 3e-2)
    assert found.trials[0].before == found.trials[1].before != found.trials[0].after
    assert str(found).count("chosen") == 1 and "<table>" in found._repr_html_()
    monkeypatch.setattr(Learner, "step", None)  # what is finished is not done again
    again = search_rates(bb, data, "maeve", **QUICK_SEARCH, recipe=EXACT, output_dir=tmp_path)
    assert again == found
    with pytest.raises(OmniError, match="another search"):
        search_rates(bb, data, "maeve", **QUICK_SEARCH, recipe=EXACT, output_dir=tmp_path, seed=1)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(OmniError, match="search.json"):
        search_rates(bb, data, "maeve", **QUICK_SEARCH, recipe=EXACT, output_dir=tmp_path)


def test_a_rate_that_fails_is_not_chosen(bb, data, monkeypatch):
    true = Learner.step

    def step(learner):
        if learner.recipe.learning_rate > 1e-2:
            raise Diverged("the loss diverges")
        return true(learner)

    monkeypatch.setattr(Learner, "step", step)
    assert search_rates(bb, data, "maeve", **QUICK_SEARCH, recipe=EXACT).best == 1e-3
    with pytest.raises(OmniError, match="try smaller ones"):
        search_rates(bb, data, "maeve", **QUICK_SEARCH | dict(rates=(0.1,)), recipe=EXACT).best


@pytest.mark.parametrize(
    "bad,said", [(dict(rates=(0,)), "rates"), (dict(held_out=0), "held_out=0"), (dict(steps=0), "steps")]
)
def test_a_search_that_cannot_be(bb, data, bad, said):
    with pytest.raises(OmniError, match=said):
        search_rates(bb, data, "maeve", **QUICK_SEARCH | bad, recipe=EXACT)


def test_the_recipe_for_the_real_size():
    "Eight samples of all tasks, 2,000 steps, and a GPU that is free can hold a step at 256 pixels."
    samples = REAL_RECIPE.samples
    assert samples.recognise + samples.vqa + samples.facts + samples.draw + samples.edit == 8
    assert REAL_RECIPE.steps == 2000 and REAL_RECIPE.learning_rate in RATES
    p = plan(gpu="T4", image_size=256, quant="nf4", samples=samples)
    assert p.needs["learning"] + 1 <= p.memory
