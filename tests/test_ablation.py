"Ablation: what is taken away is taken away, nothing else, and effects on answers and pictures are differences."

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import QUICK, apart, same
from scipy.stats import spearmanr

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.inside.ablation import (
    ablate,
    answer_attention,
    answer_effects,
    answer_logprob,
    rank_correlation,
    token_figure,
    word_figure,
)
from omnipersona.inside.concept_maps import concept_maps
from omnipersona.inside.picture_ablation import attention_and_effect, effects_figure, every_token, picture_effects
from omnipersona.inside.recording import token_labels

Q, A = "what is the toy of <maeve> ?", "a red kite"
ASK, EDIT = "a photo of <maeve> at the beach", "make <maeve> red"
EDITING = replace(QUICK, cfg_img_scale=1.5, cfg_renorm_type="text_channel")  # three branches


@pytest.fixture(scope="module")
def who(bb, concept):
    return Persona(bb, concept)


@pytest.fixture(scope="module")
def even(bb, concept):
    "A concept whose und tokens are all alike, and whose gen tokens are."
    e = concept.embeddings.detach()
    return Concept(bb, "maeve", torch.cat([e[:1], e[1:2].repeat(16, 1), e[17:18].repeat(16, 1)]))


# ---- taking away ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("which,rows", [("und", range(1, 17)), ("gen", range(17, 33)), (5, [5]), ([0, 20], [0, 20])])
def test_only_the_named_tokens_change(concept, which, rows):
    out = ablate(concept, which)
    changed = (out.embeddings != concept.embeddings).any(1).nonzero()[:, 0].tolist()
    assert changed == list(rows) and out.name == concept.name and not out.embeddings.requires_grad


def test_swapping(bb, concept):
    other = Concept(bb, "bo")
    out = ablate(concept, "gen", other)
    assert torch.equal(out.embeddings[17:], other.embeddings[17:])
    assert torch.equal(out.embeddings[:17], concept.embeddings[:17])
    assert torch.equal(ablate(concept, "und", concept).embeddings, concept.embeddings)


@pytest.mark.parametrize("bad", [33, -1, "both", [], [1, 40]])
def test_bad_tokens(concept, bad):
    with pytest.raises(OmniError, match="'und', 'gen', or numbers from 0 to 32"):
        ablate(concept, bad)


# ---- answers --------------------------------------------------------------------------------------------------------
def test_logprob_is_what_the_model_says(tiny):
    "The greedy answer's probability, asked for by hand."
    p = Persona(tiny, Concept(tiny, "maeve"))
    r = p.ask(Q)
    assert r.finished
    assert np.exp(answer_logprob(p, Q, r.text)) == pytest.approx(r.probability, rel=1e-3)


def test_logprob_falls_with_length_and_attention_is_shares(bb, who):
    assert answer_logprob(who, Q, A) < 0
    m = answer_attention(who, Q, A)
    assert m.shape == (len(bb.tok(A)) + 1, 33)
    assert (m >= 0).all() and (m.sum(1) <= bb.model.config.num_hidden_layers + 1e-4).all()


def test_effects_are_differences(bb, who, concept, even):
    e = answer_effects(who, Q, A)
    assert e.shape == (33,)
    want = answer_logprob(who, Q, A) - answer_logprob(Persona(bb, ablate(concept, 7)), Q, A)
    assert e[7] == pytest.approx(want, abs=1e-5)
    alike = answer_effects(Persona(bb, even), Q, A)[1:]
    assert np.abs(alike).max() < 1e-4  # a token that says what all others say is not missed


def test_rank_correlation():
    r = np.random.default_rng(0)
    a, b = r.integers(0, 5, 40), r.normal(size=40)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    ranks = [np.argsort(np.argsort(x)) for x in (b, b**3 + a)]  # no ties
    assert rank_correlation(b, b**3 + a) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert np.isnan(rank_correlation(a, np.ones(40)))


def test_the_figure_shows_every_token(bb, concept):
    "33 bars; labels are those of the groups, a few numbers, and never the reserved name."
    c = Concept(bb, "maeve", concept.embeddings.detach())
    fig = token_figure(np.arange(33), np.arange(33), token_labels(c))
    texts = [t.get_text() for t in fig.axes[1].get_xticklabels()]
    assert all(len(ax.patches) == 33 for ax in fig.axes)
    assert [t.split("\n")[1] for t in texts if "\n" in t] == ["name", "und", "gen"]
    assert dict(zip(fig.axes[1].get_xticks(), texts))[16] == "16" and not any("name_0" in t for t in texts)


def test_words_and_tokens(who):
    m = answer_attention(who, Q, A)
    labels = token_labels(who.concepts["maeve"])
    f = word_figure(m, A.split(), labels)
    assert [t.get_text() for t in f.axes[0].get_yticklabels()] == ["a", "red", "kite", "(end)"]
    with pytest.raises(OmniError, match="does not fit"):
        word_figure(m, ["a"], labels)


# ---- pictures -------------------------------------------------------------------------------------------------------
def test_pictures_change(bb, concept):
    a, b = (Persona(bb, c).generate("a photo of <maeve>", 0, QUICK).image for c in (concept, ablate(concept, "gen")))
    assert same(a, Persona(bb, concept).generate("a photo of <maeve>", 0, QUICK).image) and apart(a, b) > 0


def test_effects_on_pictures(who, bb, concept):
    e = picture_effects(who, ASK, {"none": [0], "gen": "gen"}, 1, QUICK, other=who.concepts["maeve"])
    assert (e.pixels == 0).all() and all(same(e.whole, x) for x in e.pictures)  # swapped with itself
    e = picture_effects(who, ASK, None, 1, QUICK)
    assert e.labels == ["und", "gen"] and (e.pixels > 0).all()
    assert same(e.whole, who.generate(ASK, 1, QUICK).image)
    assert same(e.pictures[1], Persona(bb, ablate(concept, "gen")).generate(ASK, 1, QUICK).image)
    with pytest.raises(OmniError, match="at least one group"):
        picture_effects(who, ASK, {}, 1, QUICK)
    assert effects_figure(e).axes and "without gen" in repr(e)


def test_effects_of_the_second_of_two(bb, concept, even):
    "The other concept, and the slots of both, stay as they are; also for answers and edits."
    bo = Concept(bb, "bo", torch.randn(33, 64, generator=torch.Generator().manual_seed(1)))
    p = Persona(bb, [bo, Concept(bb, "maeve", concept.embeddings.detach())])
    e = picture_effects(p, ASK, {"all": [1, 2]}, 1, QUICK, other=p.concepts["maeve"])
    assert e.pixels[0] == 0
    q = Persona(bb, [p.concepts["bo"], even])
    assert np.abs(answer_effects(q, Q, A)[1:]).max() < 1e-4


def test_effects_with_a_judge_and_on_edits(who, judge, world, char):
    im = world.photo(char, seed=3).image
    with pytest.raises(OmniError, match="real=()"):
        picture_effects(who, EDIT, None, 0, EDITING, im, judge=judge)
    quick = replace(EDITING, num_timesteps=2)
    e = picture_effects(who, EDIT, every_token(who.concepts["maeve"]), 0, quick, im, judge=judge, real=[im])
    assert e.identity.shape == e.pixels.shape == (33,) and np.isfinite(e.identity).all()
    _, m = concept_maps(who, EDIT, 0, quick, source=im)
    r = attention_and_effect(m, e)
    assert r["attention"].shape == (33,) and set(r["rank correlation"]) == {"pixels", "identity"}
    assert all(abs(v) <= 1 for v in r["rank correlation"].values() if v == v)
    with pytest.raises(OmniError, match="every_token"):
        attention_and_effect(m, replace(e, labels=["x"] * 33))
