"Where tokens lie: states are the model's own, points keep distances, the separation is the silhouette."

import json

import numpy as np
import pytest
import torch
from helpers import SHORT

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept, TextPrompt
from omnipersona.concept.learn import learn
from omnipersona.inside.geometry import (
    Snapshots,
    geometry_figure,
    separation,
    token_geometry,
    token_groups,
    token_history,
    token_points,
    token_states,
)
from omnipersona.model.segments import pack

G = [None] + ["und"] * 16 + ["gen"] * 16


@pytest.fixture(scope="module")
def snaps(bb, data):
    s = Snapshots(3)
    s.concept = learn(bb, data, "maeve", recipe=SHORT, progress=False, callbacks=[s])
    return s


def distances(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


# ---- hidden states ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("routing", ["decoupled", "coupled"])
def test_states_are_the_models_own(bb, concept, routing):
    "The first are the rows; the last, normed, are what the model gives out."
    c = Concept(bb, "maeve", concept.embeddings.detach(), routing=routing)
    s = token_states(bb, c)
    assert s.shape == (1 + bb.model.config.num_hidden_layers, 33, 64)
    assert torch.allclose(s[0], c.embeddings.detach().float(), atol=1e-6)
    b = pack([[c.prompt()]], bb.model.special, bb.model.config.latent_channels, c.gen_ids)
    with torch.no_grad():
        h = bb.model(b, splice=c.splice)
    ids, out = torch.cat([b.ids, b.gen_ids], 1)[0].tolist(), torch.cat([h.und, h.gen], 1)[0]
    lm = bb.model.language_model.model
    for i in (0, 5, 20):
        norm = lm.norm if c.ids[i] not in c.gen_ids else lm.norm_moe_gen
        with torch.no_grad():
            assert torch.allclose(norm(s[-1, i]), out[ids.index(c.ids[i])], atol=1e-4)


def test_reading_leaves_nothing_behind(bb, concept):
    a = token_states(bb, concept)
    layers = bb.model.language_model.model.layers
    assert torch.equal(a, token_states(bb, concept))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def test_routing_changes_the_gen_tokens(bb, concept):
    a, b = (
        token_states(bb, Concept(bb, "maeve", concept.embeddings.detach(), routing=r)) for r in ("decoupled", "coupled")
    )
    assert torch.equal(a[0], b[0]) and not torch.allclose(a[1, 17:], b[1, 17:], atol=1e-3)


def test_a_description_has_no_tokens(bb):
    with pytest.raises(OmniError, match="a description and no tokens"):
        token_states(bb, TextPrompt(bb, "maeve", "a red dog"))


# ---- points -------------------------------------------------------------------------------------------------------
def test_pca_keeps_the_distances_of_a_plane():
    r = np.random.default_rng(0)
    x = r.normal(size=(2, 12, 2)) @ r.normal(size=(2, 7)) + 5
    p = token_points(x)
    assert p.shape == (2, 12, 2) and all(np.allclose(distances(p[i]), distances(x[i])) for i in (0, 1))
    q = token_points(x, shared=True)
    assert np.allclose(distances(q.reshape(-1, 2)), distances(x.reshape(24, -1)))


def test_pca_is_that_of_scikit_learn():
    from sklearn.decomposition import PCA

    x = np.random.default_rng(1).normal(size=(30, 9))
    a, b = token_points(x[None])[0], PCA(2).fit_transform(x)
    assert np.allclose(abs(a), abs(b)) and np.allclose(token_points(-x[None])[0].std(0), a.std(0))


def test_tsne_keeps_neighbours_and_repeats_itself():
    r = np.random.default_rng(2)
    x = np.concatenate([r.normal(size=(12, 8)), r.normal(size=(12, 8)) + 30])[None]
    p = token_points(x, "tsne")
    assert np.array_equal(p, token_points(x, "tsne"))
    d = distances(p[0]) + np.eye(24) * 1e9
    assert all((d[i].argmin() < 12) == (i < 12) for i in range(24))


def test_bad_points():
    with pytest.raises(OmniError, match="how='umap': one of pca, tsne"):
        token_points(np.zeros((1, 5, 3)), "umap")
    with pytest.raises(OmniError, match="layers .or steps., tokens and dimensions"):
        token_points(np.zeros((5, 3)))


# ---- separation ---------------------------------------------------------------------------------------------------
def test_separation_is_the_silhouette():
    from sklearn.metrics import silhouette_score

    x = np.random.default_rng(3).normal(size=(33, 20))
    x[17:] += 0.5
    assert separation(x, G) == pytest.approx(silhouette_score(x[1:], G[1:], metric="cosine"), abs=1e-6)


def test_separation_at_its_ends():
    r = np.random.default_rng(4)
    far = r.normal(size=(33, 20)) * 0.01
    far[:17, 0] += 1
    far[17:, 1] += 1
    assert separation(far, G) > 0.99
    assert separation(far * np.linspace(1, 9, 33)[:, None], G) == pytest.approx(separation(far, G))
    assert separation(far, [None, *["und", "gen"] * 16]) < 0.05  # labels that have nothing to do with it
    name = far.copy()
    name[0] = 100
    assert separation(name, G) == separation(far, G)


@pytest.mark.parametrize("groups", [[None] * 33, ["und"] * 33, [None] + ["und"] * 31 + ["gen"]])
def test_one_group_has_no_separation(groups):
    with pytest.raises(OmniError, match="two are needed, of two tokens or more"):
        separation(np.ones((33, 4)), groups)


# ---- results ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["pca", "tsne"])
def test_geometry_of_a_concept(bb, concept, how):
    r = token_geometry(bb, concept, how)
    n = 1 + bb.model.config.num_hidden_layers
    assert json.loads(json.dumps(r)) == r
    assert np.shape(r["points"]) == (n, 33, 2)
    assert len(r["at"]) == len(r["separation"]) == n
    assert r["groups"] == G == token_groups(concept)
    assert r["separation"][0] == pytest.approx(separation(token_states(bb, concept)[0], G), abs=1e-4)
    assert (
        r["how"],
        r["routing"],
        r["labels"][0],
    ) == (how, "decoupled", "<maeve>")
    assert len(geometry_figure([r, r]).axes) == 2 * n


def test_history_of_a_concept(bb, concept, snaps):
    assert snaps.steps == [1, 3, 6]
    assert torch.equal(snaps.embeddings[-1], snaps.concept.embeddings)
    assert not torch.equal(snaps.embeddings[0], snaps.embeddings[1])
    h = token_history(bb, snaps.concept, snaps, layer=0)
    assert h["at"] == ["step 1", "step 3", "step 6"] and np.shape(h["points"]) == (3, 33, 2)
    want = token_points(torch.stack(snaps.embeddings).float(), shared=True)
    assert np.allclose(h["points"], want, atol=2e-3)
    last = token_history(bb, snaps.concept, snaps)
    assert last["separation"][-1] == token_geometry(bb, snaps.concept)["separation"][-1]
    assert len(geometry_figure(last).axes) == 3


def test_history_needs_snapshots(bb, concept):
    with pytest.raises(OmniError, match="give `Snapshots` to `learn`"):
        token_history(bb, concept, Snapshots())
