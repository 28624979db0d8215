"""No token of the model's own (`<name_0>`, `<|vision_start|>`, `[UNK]`) ever reaches a person.

The model is made to say such tokens: a trained one does so seldom, an untrained one does."""

import re

import pytest
from helpers import random_backbone

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept, Concepts, TextPrompt
from omnipersona.concept.kit_model import KitModel
from omnipersona.concept.kit_wordings import wording_for
from omnipersona.concept.persona import Persona
from omnipersona.concept.replay import Replay
from omnipersona.concept.requests import ConceptTexts, restore_answer, text_problems
from omnipersona.concept.sampling import EncodedData
from omnipersona.data import ConceptData
from omnipersona.inside.ablation import answer_logprob
from omnipersona.model.flow import SamplingConfig

INTERNAL = re.compile(r"<name_\d+>|<\||\[UNK\]")
QUICK = SamplingConfig(3, 2.0, 1.0)


def says(bb, monkeypatch, *texts):
    "A backbone that says these texts, one in each call, and the last one from then on."
    left = list(texts)
    real = bb.generate_text

    def generate_text(samples, *args, **kw):
        text = left.pop(0) if len(left) > 1 else left[0]
        return [(text, o) for _, o in real(samples, *args, **kw)]

    monkeypatch.setattr(bb, "generate_text", generate_text)


@pytest.fixture
def untrained(tiny):
    "A concept whose embeddings are random numbers."
    return Persona(tiny, Concept(tiny, "maeve"))


SAID = ["<name_14> ?", "<name_0> with <name_3>", "<|vision_start|> a [UNK] kite", "<|im_start|>", "<name_1>"]


@pytest.mark.parametrize("said", SAID)
def test_answers(untrained, monkeypatch, said):
    says(untrained.bb, monkeypatch, said)
    r = untrained.ask("what is the toy of <maeve> ?")
    assert not INTERNAL.search(r.text) and not INTERNAL.search(str(r)) and not INTERNAL.search(repr(r))


def test_another_name_is_somebody_else_and_the_concepts_own_are_theirs(tiny, monkeypatch):
    two = Persona(tiny, [Concept(tiny, "ann"), Concept(tiny, "bo")])
    says(tiny, monkeypatch, "<name_0> and <name_1> and <name_14> ?")
    assert two.ask("is <ann> with <bo> ?").text == "<ann> and <bo> and <someone else> ?"


def test_an_untrained_concept_as_it_is(untrained):
    "Whatever random tokens make the real model say."
    questions = [f"what is the {k} of <maeve> ?" for k in ("toy", "food", "ride", "friend", "home")]
    for seed in range(4):
        p = Persona(untrained.bb, Concept(untrained.bb, "maeve").with_embeddings(_noise(untrained, seed)))
        for r in p.ask_many([*questions, "what is <maeve> ?", "is <maeve> in the photo ?"]):
            assert not INTERNAL.search(repr(r))


def _noise(p, seed):
    import torch

    e = p.concepts["maeve"].embeddings
    return torch.randn(e.shape, generator=torch.Generator().manual_seed(seed)) * e.std()


@pytest.mark.parametrize(
    "said",
    [
        ("what is the toy of <name_0> ?", "<name_14> ?", "a photo of <name_14>"),
        ("what is the toy of <name_9> ?",),
        ("what is the toy of <name_0> ?", "a red kite", "a photo of <name_0> <name_7>"),
        ("what is the toy of <name_0> ?", "<|vision_start|>"),
    ],
)
def test_traces(untrained, monkeypatch, tmp_path, said):
    "Also where the model recalls another name, or nothing: what is given up says why, in words."
    says(untrained.bb, monkeypatch, *said)
    (t,) = Replay(untrained.bb, untrained.concepts)(["a photo of the toy of <maeve>"])
    saved = t.save(tmp_path / "trace.json").read_text(encoding="utf-8")
    for shown in (str(t), t._repr_html_(), repr(t), saved):
        assert not INTERNAL.search(shown), INTERNAL.search(shown)
    assert t.fallback and t.prompt == t.request


def test_an_answer_by_hand_that_cannot_be_read(tiny, char):
    "The refusal quotes the answer, and not what the model would have read."
    p = Persona(tiny, TextPrompt(tiny, "maeve", char.description, char.facts))
    r = p.generate("a photo of the toy of <maeve>", sampling=QUICK, replay=True)
    with pytest.raises(OmniError) as e:
        p.what_if(r, "a sombrero")
    assert "'a sombrero'" in str(e.value) and "sombrero" in str(e.value) and not INTERNAL.search(str(e.value))
    assert "request :" not in str(e.value)


def test_errors_of_requests_and_descriptions(tiny, untrained):
    for ask in (
        lambda: untrained.ask("what is the hobby of <maeve> ?"),
        lambda: untrained.generate("a photo of <maeve> on a skateboard"),
        lambda: untrained.generate("a skateboard of <maeve>", replay=True),
        lambda: TextPrompt(tiny, "maeve", "a dog on a skateboard"),
        lambda: TextPrompt(tiny, "maeve", "a dog", {"toy of <maeve>": "a skateboard"}),
        lambda: answer_logprob(untrained, "what is <maeve> ?", "<maeve> is a skateboard"),
    ):
        with pytest.raises(OmniError) as e:
            ask()
        assert "maeve" in str(e.value) and not INTERNAL.search(str(e.value)), e.value


def test_errors_of_data(world, tiny):
    photo = world.photo(seed=3).image
    data = ConceptData(
        [photo],
        captions=["<sks> on a skateboard"],
        facts={"hobby": "a kite", "toy": "the sled of <maeve>"},
        qa=[(0, "is <sks> sleepy ?", "<maeve> is sleepy")],
        edits=[(photo, "shave <sks>", photo)],
        description="the shy <sks>",
    )
    problems = text_problems(tiny, data, "maeve")
    assert {p.field for p in problems} == {"captions", "facts", "qa", "edits", "description"} and len(problems) == 7
    with pytest.raises(OmniError) as e:
        EncodedData(tiny, data, "maeve")
    for word in ("skateboard", "hobby", "sled", "sleepy", "shave", "shy"):
        assert word in str(e.value), word
    assert not INTERNAL.search(str(e.value)) and "<maeve>" in str(e.value)


def test_a_word_that_is_near_is_offered_and_no_function(tiny):
    with pytest.raises(OmniError, match="drum") as e:
        ConceptTexts(tiny, "maeve").answer("a drumm")
    assert "omnipersona." not in str(e.value)


def test_a_concept_that_is_called_like_a_token_keeps_its_name():
    bb = random_backbone()
    both = Concepts(bb, [Concept(bb, "name_1"), Concept(bb, "bo")])
    assert restore_answer("<name_0> <name_1> <name_2>", both) == "<name_1> <bo> <someone else>"


def test_the_photo_kit_takes_no_name_for_an_answer(tiny, world, monkeypatch):
    says(tiny, monkeypatch, "<name_3> is here")
    kit = KitModel(tiny, wording_for(tiny, "dog"), "dog")
    picture = kit.look([world.photo(seed=1).image])[0]
    assert kit.say([picture], ["what is in the photo ?"])[0][0] == "" and kit.answers(picture) == {}
