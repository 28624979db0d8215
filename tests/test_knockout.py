"Knock-outs: what is taken away is taken away, nothing else, and effects are differences."

import numpy as np
import pytest
import torch
from helpers import QUICK, apart, same

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
)
from omnipersona.inside.recording import token_labels

Q, A = "what is the toy of <maeve> ?", "a red kite"


@pytest.mark.parametrize("which,rows", [("und", range(1, 17)), ("gen", range(17, 33)), (5, [5]), ([0, 20], [0, 20])])
def test_only_the_named_rows_change(concept, which, rows):
    out = ablate(concept, which)
    changed = (out.embeddings != concept.embeddings).any(1).nonzero()[:, 0].tolist()
    assert changed == list(rows) and out.name == concept.name and not out.embeddings.requires_grad


def test_swapping(bb, concept):
    other = Concept(bb, "bo")
    out = ablate(concept, "gen", other)
    assert torch.equal(out.embeddings[17:], other.embeddings[17:]) and torch.equal(
        out.embeddings[:17], concept.embeddings[:17]
    )
    assert torch.equal(ablate(concept, "und", concept).rows, concept.embeddings)


@pytest.mark.parametrize("bad", [33, -1, "both", [], [1, 40]])
def test_bad_rows(concept, bad):
    with pytest.raises(OmniError, match="'und', 'gen', or numbers from 0 to 32"):
        ablate(concept, bad)


def test_logprob_is_what_the_model_says(tiny):
    "The greedy answer's probability, asked for by hand."
    p = Persona(tiny, Concept(tiny, "maeve"))
    r = p.ask(Q)
    assert r.finished
    assert np.exp(answer_logprob(p, Q, r.text)) == pytest.approx(r.probability, rel=1e-3)


def test_logprob_falls_with_length_and_masses_are_shares(bb, concept):
    p = Persona(bb, concept)
    assert answer_logprob(p, Q, A) < 0
    m = answer_attention(p, Q, A)
    assert (
        m.shape == (len(bb.tok(A)) + 1, 33)
        and (m >= 0).all()
        and (m.sum(1) <= bb.model.config.num_hidden_layers + 1e-4).all()
    )


def test_effects_are_differences(bb, concept):
    p = Persona(bb, concept)
    e = answer_effects(p, Q, A)
    assert e.shape == (33,)
    want = answer_logprob(p, Q, A) - answer_logprob(Persona(bb, ablate(concept, 7)), Q, A)
    assert e[7] == pytest.approx(want, abs=1e-5)
    even = Concept(
        bb,
        "maeve",
        torch.cat(
            [
                concept.embeddings[:1].detach(),
                concept.embeddings[1:2].detach().repeat(16, 1),
                concept.embeddings[17:18].detach().repeat(16, 1),
            ]
        ),
    )
    assert (
        np.abs(answer_effects(Persona(bb, even), Q, A)[1:]).max() < 1e-4
    )  # a token that says what all others say is not missed


def test_pictures_change(bb, concept):
    a, b = (Persona(bb, c).generate("a photo of <maeve>", 0, QUICK).image for c in (concept, ablate(concept, "gen")))
    assert same(a, Persona(bb, concept).generate("a photo of <maeve>", 0, QUICK).image) and apart(a, b) > 0


def test_rank_correlation():
    from scipy.stats import spearmanr

    r = np.random.default_rng(0)
    a, b = r.integers(0, 5, 40), r.normal(size=40)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_the_figure_shows_every_token(concept):
    c = Concept(concept.bb, "maeve", concept.embeddings.detach())
    fig = token_figure(np.arange(33), np.arange(33), token_labels(c))
    assert [t.get_text() for t in fig.axes[1].get_xticklabels()] == token_labels(c) and len(fig.axes[0].patches) == 33
