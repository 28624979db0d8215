"The methods of the benchmark: each answers every kind of item, leaves the backbone alone, and does the same twice."

import copy

import numpy as np
import pytest
import torch
from helpers import QUICK, random_backbone, same, unchanged, weights

from omnipersona.basics import OmniError
from omnipersona.bench import lora, sync_r1, unictokens, yochameleon
from omnipersona.bench.items import BenchItem
from omnipersona.bench.many_concepts import ManyLearners, learn_many, many_losses
from omnipersona.bench.method import Budget, Teaching, answer_logprobs, method, methods
from omnipersona.bench.prompting import answers_of, toy_lesson
from omnipersona.concept.learn import learn
from omnipersona.concept.learner import Learner
from omnipersona.concept.losses import Recipe
from omnipersona.concept.requests import request_segments
from omnipersona.concept.sampling import SamplesPerStep, step_samples
from omnipersona.data import ConceptData
from omnipersona.model.generate import pack_for
from omnipersona.model.segments import Text

NAMES = [
    "omnipersona",
    "no decoupling",
    "no replay",
    "no editing data",
    "short prompt",
    "long prompt",
    "image prompt",
    "yochameleon style",
    "unictokens style",
    "sync-r1 style",
    "lora",
    "lora larger",
    "chance",
    "oracle",
]
PROMPTED = {"short prompt": 0, "long prompt": 0, "image prompt": 1, "chance": 0, "oracle": 0}  # pictures they use
SHORT = Budget(2 / 440)  # two steps
D = 33  # embeddings of a concept


@pytest.fixture(scope="module")
def quick():
    "A random backbone that draws in a few steps."
    bb = random_backbone(3)
    bb.presets = dict(draw=QUICK, edit=QUICK)
    return bb


@pytest.fixture(scope="module")
def lesson():
    teaching, items, pictures = toy_lesson()
    data = teaching.data
    small = ConceptData(
        data.images[:2],
        data.captions[:2],
        data.facts,
        [q for q in data.qa if q[0] < 2],
        data.edits[:2],
        data.look_alikes[:3],
        data.others[:3],
        data.description,
    )
    return Teaching("maeve", small, teaching.truth), items, pictures


def test_all_methods_are_there_and_an_unknown_one_is_named():
    assert set(methods()) == set(NAMES)
    with pytest.raises(OmniError, match="'unictoken style': unknown.*did you mean unictokens style"):
        method("unictoken style")
    for m in methods().values():
        assert m.simplified or m.name in ("chance", "oracle")
    assert all(m.paper for m in methods().values() if m.name.endswith(" style"))


@pytest.mark.parametrize("name", NAMES)
def test_a_method_answers_every_kind_of_item_and_leaves_the_backbone_as_it_is(quick, lesson, name):
    teaching, items, pictures = lesson
    before, was = quick.fingerprint, weights(quick.model)
    learnt = method(name).learn(quick, teaching, [], 0, SHORT)
    found = answers_of(learnt, items, pictures, seed=1)
    for i in items:
        a = found[i.id]
        assert (a.image is not None) == i.wants_picture and (a.text is None) == i.wants_picture
        assert a.confidence is None or 0 <= a.confidence <= 1
    assert found["choose"].text[0] in "ABCa" and found["draw"].image.size == pictures["photo"].size
    assert quick.fingerprint == before and unchanged(quick.model, was)
    assert not any(p.requires_grad for p in quick.model.parameters())
    assert learnt.n_pictures == PROMPTED.get(name, learnt.n_pictures) and learnt.seconds >= 0
    again = answers_of(method(name).learn(quick, teaching, [], 0, SHORT), items, pictures, seed=1)
    for key, a in found.items():
        assert a.text == again[key].text and a.confidence == again[key].confidence
        assert a.image is None or same(a.image, again[key].image)


def test_parameters_are_counted(quick, lesson):
    width = quick.model.config.hidden_size
    tokens = ("omnipersona", "no decoupling", "yochameleon style", "unictokens style", "sync-r1 style")
    counts = {
        n: method(n).learn(quick, lesson[0], [], 0, SHORT).n_parameters for n in (*tokens, "lora", "short prompt")
    }
    assert {counts[n] for n in tokens} == {D * width} and counts["short prompt"] == 0
    layers = lora.nearest_layers(quick, D * width)
    sizes = [
        abs(lora.lora_size(quick, range(k), 1) - D * width) for k in range(1, quick.model.config.num_hidden_layers + 1)
    ]
    assert counts["lora"] == lora.lora_size(quick, layers, 1) and abs(counts["lora"] - D * width) == min(sizes)


def test_no_replay_may_take_what_omnipersona_has_learnt(quick, lesson):
    teaching, items, pictures = lesson
    own = method("no replay")
    adapted = own.adapt(method(own.same_learning).learn(quick, teaching, [], 0, SHORT))
    learnt = own.learn(quick, teaching, [], 0, SHORT)
    assert not adapted.replay and adapted.n_pictures == learnt.n_pictures
    for a, b in zip(answers_of(adapted, items, pictures).values(), answers_of(learnt, items, pictures).values()):
        assert a.text == b.text and (a.image is None or same(a.image, b.image))


@pytest.mark.parametrize("name", ["omnipersona", "yochameleon style", "long prompt", "image prompt", "lora", "oracle"])
def test_a_request_may_name_two_concepts(quick, lesson, world, name):
    teaching = lesson[0]
    other = Teaching("otto", world.concept_data(world.character(5), 2), world.character(5))
    item = BenchItem("both", "maeve", "two_concepts", "a photo of <maeve> with <otto>", meta=dict(draw=True, two=[]))
    learnt = method(name).learn(quick, teaching, [other], 0, SHORT)
    assert learnt.answer(item, [], 0).image.size == (64, 64)


def test_impossible_items_are_refused(quick, lesson):
    learnt = method("short prompt").learn(quick, lesson[0], [], 0, SHORT)
    with pytest.raises(OmniError, match="an edit needs the picture"):
        learnt.answer(BenchItem("e", "maeve", "editing", "remove <maeve> from the photo"), [], 0)
    with pytest.raises(OmniError, match="2 pictures; one can be asked about"):
        learnt.answer(BenchItem("r", "maeve", "rec", "is <maeve> in the photo ?"), lesson[0].data.images[:2], 0)
    for wrong in (0, -1, float("nan"), "much"):
        with pytest.raises(OmniError, match="Budget"):
            Budget(wrong)


def test_choices_are_scored_as_the_model_says_them(quick):
    "The log-probability of an answer is that of its words, one after the other."
    context, answer = [quick.text("where is it ?")], quick.tok("the park")
    found = answer_logprobs(quick, context, [answer, quick.tok("red")])
    logprobs = []
    for k in range(len(answer) + 1):
        text = Text([quick.tok.special["bos"], *answer[:k]], wrap=False)
        b = pack_for(quick.model, [[*context, text]])
        p = quick.model.logits(quick.model(b).und[0, -1]).log_softmax(-1)
        logprobs.append(float(p[[*answer, quick.tok.special["eos"]][k]]))
    assert abs(float(found[0]) - np.mean(logprobs)) < 1e-4 and found.shape == (2,)


# ---- what single methods promise ----------------------------------------------------------------------------------
def test_lora_is_taken_off_after_an_error(quick):
    before = quick.fingerprint
    with pytest.raises(ValueError, match="in the block"), lora.with_lora(quick, [0], 1):
        raise ValueError("in the block")
    assert quick.fingerprint == before and not any("lora" in k for k in quick.model.state_dict())


def test_lora_changes_answers_only_where_it_is_on(quick):
    ask = [[quick.text("what is in the photo ?")]]
    words = ["red", "blue", "yes", "no"]
    was = quick.probability(ask, words)
    with lora.with_lora(quick, [0, 1], 2) as found:
        assert torch.equal(quick.probability(ask, words), was)  # begins as no change
        matrices = {k: torch.randn_like(p) for k, p in found.items()}
    with lora.with_lora(quick, [0, 1], 2, matrices):
        assert not torch.allclose(quick.probability(ask, words), was)
    assert torch.equal(quick.probability(ask, words), was)


def test_the_most_similar_look_alike_gets_the_most_tokens():
    lengths = yochameleon.soft_lengths(torch.tensor([0.1, 0.9, 0.5]), 16)
    assert lengths == [1, 15, 8]
    assert yochameleon.soft_lengths(torch.zeros(0), 16) == []


def test_the_model_gets_the_soft_prompt_that_it_asks_for(quick, lesson):
    learnt = method("yochameleon style").learn(quick, lesson[0], [], 0, SHORT)
    for request in ("where is <maeve> ?", "a photo of <maeve>"):
        prompts, _, text = request_segments(quick, request, learnt.concepts)
        kind, segments = learnt.kind([*prompts, text]), learnt.context(request, None)
        concept = learnt.concepts["maeve"]
        assert segments[-2:] == concept.soft_prompt(kind) and not concept.gen_ids
    assert len(learnt.context("what is in the photo ?", None)) == 1  # nobody is named


def test_stages_add_up_to_the_budget_and_begin_with_each_other(quick, lesson):
    stages = unictokens.stage_recipes(Recipe())
    assert sum(s.steps for s in stages) == 440 and not stages[0].samples.draw and not stages[1].samples.facts
    first, second, third = unictokens.learn_in_stages(quick, lesson[0], 0, SHORT)
    assert second.summary["start"] and not torch.equal(first.embeddings, second.embeddings)
    assert not torch.equal(second.embeddings, third.embeddings) and third.routing == "coupled"


def test_advantages_compare_a_group_with_itself():
    a = sync_r1.group_advantages([1.0, 2.0, 4.0])
    assert abs(float(a.mean())) < 1e-6 and abs(float(a.std(correction=0)) - 1) < 1e-6 and a.argmax() == 2
    assert not sync_r1.group_advantages([2.0, 2.0]).any()


def test_rewards_need_facts(quick, lesson):
    teaching = copy.copy(lesson[0])
    object.__setattr__(teaching, "data", ConceptData(teaching.data.images))
    concept, rewards = sync_r1.reinforced(
        quick, method("omnipersona").learn(quick, teaching, [], 0, SHORT).concepts["maeve"], teaching, Recipe(steps=1)
    )
    assert rewards == [] and not concept.embeddings.requires_grad


# ---- many concepts in one batch -----------------------------------------------------------------------------------
def test_many_concepts_learn_what_each_learns_alone(quick, world):
    "Three concepts with different data and seeds, in float32: the same tokens as one by one, and the same losses."
    recipe = Recipe(steps=3, warmup_steps=1, samples=SamplesPerStep(copies=1), precision="float32")
    data = {f"c{i}": world.concept_data(world.character(40 + i), 2, seed=i, edits_each=1) for i in range(2)}
    data["bare"] = ConceptData(data["c0"].images[:1])  # no questions, no facts, no edits
    together = ManyLearners([Learner(quick, d, name, i, recipe) for i, (name, d) in enumerate(data.items())])
    steps = [together.step() for _ in range(3)]
    for i, (name, d) in enumerate(data.items()):
        alone = learn(quick, d, name, seed=i, recipe=recipe, progress=False)
        own = together.learners[i]
        assert torch.allclose(own.concept.embeddings, alone.embeddings, atol=2e-3, rtol=0)
        assert (own.concept.embeddings - alone.embeddings).abs().mean() < 1e-5
        for k, losses in enumerate(alone.history):
            assert losses.keys() == steps[k][i].keys()
            assert all(abs(losses[t] - steps[k][i][t]) < 1e-3 * max(1, losses[t]) for t in losses)


def test_one_concept_does_not_reach_another(quick, world):
    "The loss of one concept has no gradient in the tokens of the other."
    learners = [Learner(quick, world.concept_data(world.character(50 + i), 2), f"c{i}") for i in range(2)]
    samples = [step_samples(one.encoded, Recipe().samples, one.generator) for one in learners]
    losses = many_losses(quick, [one.concept for one in learners], samples)
    sum(loss for loss, _ in losses[0].values()).backward()
    first, second = (one.concept.embeddings.grad for one in learners)
    assert first.abs().sum() > 0 and (second is None or not second.any())


def test_many_concepts_need_one_recipe(quick, world):
    data = world.concept_data(world.character(60), 1)
    with pytest.raises(OmniError, match="the same recipe"):
        ManyLearners([Learner(quick, data, "a"), Learner(quick, data, "b", recipe=Recipe(steps=3))])
    concepts = learn_many(quick, dict(a=data, b=data), [0, 1], Recipe(steps=1))
    assert [c.name for c in concepts] == ["a", "b"] and not torch.equal(concepts[0].embeddings, concepts[1].embeddings)
