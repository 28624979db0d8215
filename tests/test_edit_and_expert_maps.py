"What edits read of their source, what experts read of each other, rollout: identities, bounds, the official layout."

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import QUICK, same

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.inside.ablation import answer_attention, answer_logprob
from omnipersona.inside.concept_maps import concept_maps
from omnipersona.inside.edit_attention import edit_maps, edit_maps_figure
from omnipersona.inside.expert_attention import (
    expert_attention,
    expert_attention_figure,
    rollout_columns,
    token_kinds,
    with_rollout,
)
from omnipersona.inside.localization import photo_maps
from omnipersona.inside.picture_ablation import picture_effects
from omnipersona.inside.recording import observe, packed_request, record
from omnipersona.model.attention import attention_weights
from omnipersona.model.bagel import random_checkpoint
from omnipersona.model.loading import load_backbone

ASK, EDIT = "a photo of <maeve> at the beach", "make <maeve> red"
EDITING = replace(QUICK, cfg_img_scale=1.5, cfg_renorm_type="text_channel")  # three branches


@pytest.fixture(scope="module")
def who(bb, concept):
    return Persona(bb, concept)


@pytest.fixture(scope="module")
def coupled(bb, concept):
    return Persona(bb, Concept(bb, "maeve", concept.embeddings.detach(), routing="coupled"))


@pytest.fixture(scope="module")
def bagel(tmp_path_factory):
    "The reference checkpoint where it is at hand, else another random one in the official layout."
    ref = ROOT.parent / "shared" / "bagel_reference" / "A" / "ckpt"
    folder = ref if ref.is_dir() else random_checkpoint(tmp_path_factory.mktemp("o") / "bagel")
    b = load_backbone(folder, torch.float32, "cpu", image_size=96 if ref.is_dir() else 64)
    b.presets = dict(draw=QUICK, edit=EDITING)
    return Persona(b, Concept(b, "maeve"))


def seeded(draw):
    "What `draw` gives after torch's own seed was set: BAGEL's autoencoder samples."
    torch.manual_seed(0)
    return draw()


# ---- edits ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("on", ["who", "coupled", "bagel"])
def test_edits_are_the_same_recorded_or_not(on, request, world):
    p = request.getfixturevalue(on)
    im = world.photo(seed=3).image
    off = seeded(lambda: p.edit(EDIT, im, 1, EDITING))
    on, m = seeded(lambda: concept_maps(p, EDIT, 1, EDITING, source=im))
    assert same(off.image, on.image)
    assert m.weights.shape[0] == EDITING.num_timesteps - 1
    assert (m.weights >= 0).all() and m.weights.sum(3).max() <= 1.0001 and m.weights.sum() > 0


@pytest.mark.parametrize("on", ["who", "bagel"])
def test_source_maps(on, request, world):
    "Shares of attention; the picture stays; what all read is the mean of what each reads; refusals name what there is."
    p = request.getfixturevalue(on)
    im = world.photo(seed=3).image.resize((96, 64)) if on == "bagel" else world.photo(seed=3).image
    off = seeded(lambda: p.edit(EDIT, im, 1, EDITING).image)
    r, m = seeded(lambda: edit_maps(p, EDIT, im, 1, EDITING))
    assert same(off, r.image)
    layers = 2 if on == "who" else p.bb.model.config.num_hidden_layers
    assert m.grid == p.bb.latent_grid(im) and m.latents.shape[:2] == (4, layers)
    total = m.latents.sum((-2, -1)) + m.photo.sum(-1)
    assert (total > 0).all() and total.max() <= 1.0001
    n = m.grid[0] * m.grid[1]
    each = [m.reads(i, j) for i in range(m.grid[0]) for j in range(m.grid[1])]
    assert np.allclose(np.mean(each, 0), m.read())
    assert np.allclose([e.ravel()[i] for i, e in enumerate(each)], m.copied().ravel())
    with pytest.raises(OmniError, match="row 99"):
        m.reads(99, 0)
    assert n == m.latents.shape[2] and edit_maps_figure(m, ((0, 0),)) is not None


def test_source_columns_are_the_attentions_own(who, world):
    "The weights computed here from what `attend` is given, for the same step."
    bb, im, own, told = who.bb, world.photo(seed=3).image, [], []
    n = bb.grid[0] * bb.grid[1]

    def look(layer, q, k, mask):
        if q.shape[2] == n + 2 < k.shape[2]:  # latents after a cache: a step
            own.append(attention_weights(q.float(), k.float(), mask)[0])
        elif q.shape[2] < k.shape[2]:  # the instruction, which is read after what both branches read
            told.append(q.shape[2])

    _, m = edit_maps(who, EDIT, im, 1, QUICK)
    with observe(bb, look):
        who.edit(EDIT, im, 1, QUICK)
    w = own[0].mean(0)  # [start, end, latents] x [cached und | cached gen | start, end, latents]
    end = w.shape[1] - w.shape[0] - told[0]
    at = end - n  # the source's latents end the cached gen places of what was read first
    assert np.allclose(w[2:, at:end].numpy(), m.latents[0, 0].reshape(n, n), atol=1e-5)


def test_the_figure_of_an_edit(who, world):
    "Source, edit and own place above, one map for each patch below, crosses in the edit; one scale in a row."
    _, m = edit_maps(who, EDIT, world.photo(seed=3).image, 1, QUICK)
    fig = edit_maps_figure(m, ((0, 0), (5, 3), (7, 7), (1, 2)))
    above, below = fig.axes[:4], fig.axes[4:8]
    assert [ax.get_title() for ax in above[:2]] == ["source", "edited"] and len(above[1].lines) == 4
    assert len({ax.images[-1].get_clim() for ax in below}) == 1 and all(len(ax.lines) == 1 for ax in below)


# ---- who reads whom -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("on", ["who", "coupled", "bagel"])
def test_everything_read_is_counted_once(on, request, world):
    p = request.getfixturevalue(on)
    im = world.photo(seed=4).image
    for kw in (dict(), dict(image=im, t=0.5), dict(source=im)):
        f = expert_attention(p, ASK, **kw)
        assert np.allclose(f.shares.sum(-1), 1, atol=1e-4) and np.allclose(f.experts.sum(-1), 1, atol=1e-4)
        assert (f.shares >= -1e-6).all()
        assert ("source" in f.kinds) == ("photo" in f.kinds) == ("source" in kw)
        assert {"und", "gen", "picture", "words", "name"} <= set(f.kinds)
        assert f.shares[:, f.kinds.index("words"), f.kinds.index("picture")].max() == 0
    few = expert_attention(p, ASK, per_kind=3)
    assert few.kinds == expert_attention(p, ASK).kinds and np.allclose(few.shares.sum(-1), 1, atol=1e-4)
    assert expert_attention_figure(f).axes


def test_counts_are_the_mean_of_the_weights(who):
    "Against all weights, averaged by hand."
    b, _ = packed_request(who, ASK)
    c, f = who.concepts["maeve"], expert_attention(who, ASK, per_kind=10**6)
    with torch.no_grad(), record(who.bb) as tr:
        who.bb.model(b, splice=who.concepts.splice)
    of, n_und = np.array(token_kinds(b, who.bb, c)), b.ids.shape[1]
    for layer, e in enumerate(tr.entries):
        w = e["weights"][0].mean(0)
        for i, k in enumerate(f.kinds):
            for j, m in enumerate(f.kinds):
                assert f.shares[layer, i, j] == pytest.approx(w[of == k][:, of == m].sum(1).mean(), abs=1e-5)
        assert f.experts[layer, 1, 0] == pytest.approx(w[n_und:, :n_und].sum(1).mean(), abs=1e-5)
        assert f.across["und reads gen"][layer] == pytest.approx(w[:n_und, n_und:].sum(1).mean(), abs=1e-5)


def test_counting_refuses(who):
    with pytest.raises(OmniError, match="t=0"):
        expert_attention(who, ASK, t=0)
    with pytest.raises(OmniError, match="nobody"):
        expert_attention(who, "a photo of <nobody>")


# ---- rollout --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("on", ["who", "coupled", "bagel"])
def test_rollout_is_the_product_of_all_layers(on, request):
    p = request.getfixturevalue(on)
    b, _ = packed_request(p, ASK)
    n = b.mask.shape[1]
    at = [0, 3, n - 1]
    with torch.no_grad():
        with record(p.bb) as tr, rollout_columns(p.bb, at, chunk=7) as r:
            on = p.bb.model(b, splice=p.concepts.splice)
        off = p.bb.model(b, splice=p.concepts.splice)
    product = np.eye(n)
    for e in tr.entries:
        product = (0.5 * np.eye(n) + 0.5 * e["weights"][0].mean(0)) @ product
    assert np.allclose(product[:, at], r.value.numpy(), atol=1e-5)
    assert torch.equal(on.gen, off.gen) and torch.equal(on.und, off.und)


def test_rollout_of_a_drawing_and_of_an_edit(who, world):
    _, m = concept_maps(who, ASK, 1, QUICK, every=2)
    with pytest.raises(OmniError, match="with_rollout"):
        m.map(how="rollout")
    m = with_rollout(who, ASK, m)
    assert m.rollout.shape == (2, 33, *who.bb.grid) and (m.rollout >= 0).all() and m.rollout.sum(1).max() <= 1
    assert np.allclose(m.map("gen", how="rollout"), m.rollout[:, 17:].sum(1).mean(0))
    assert np.allclose(m.map(5, step=1, how="rollout"), m.rollout[1, 5])
    with pytest.raises(OmniError, match="all layers"):
        m.map(layer=0, how="rollout")
    im = world.photo(seed=3).image
    _, e = concept_maps(who, EDIT, 1, EDITING, source=im)
    assert with_rollout(who, EDIT, e, im).rollout.shape == (4, 33, *who.bb.grid)


def test_a_cached_pass_cannot_be_rolled_out(who):
    with pytest.raises(OmniError, match="one pass"):
        with rollout_columns(who.bb, [0]):
            who.generate(ASK, 0, QUICK)
    assert who.generate(ASK, 0, QUICK).image is not None  # the observers are gone


# ---- the official layout --------------------------------------------------------------------------------------------
def test_on_bagel(bagel, world, char):
    "Drawings: the same picture, only the asked-for rows; photographs of any shape; answers."
    off = bagel.generate(ASK, 1)
    on, m = concept_maps(bagel, ASK, 1, layers=[1], heads="mean", every=2)
    assert same(off.image, on.image) and m.weights.shape == (2, 1, 1, 33, *bagel.bb.grid)
    m = with_rollout(bagel, ASK, m)
    assert m.rollout.shape[2:] == bagel.bb.grid
    k = photo_maps(bagel, replace(world.photo(char, seed=5)), ASK)
    assert k.weights.shape[1] == bagel.bb.model.config.num_hidden_layers and (k.weights.sum(3) <= 1.0001).all()
    assert answer_logprob(bagel, "who is <maeve> ?", "a dog") < 0
    assert answer_attention(bagel, "who is <maeve> ?", "a dog").shape[1] == 33
    assert picture_effects(bagel, ASK, None, 1).pixels.shape == (2,)
