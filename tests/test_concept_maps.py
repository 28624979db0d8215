"Maps of concept tokens: recording changes nothing, maps are shares of attention, mistakes are named."

from dataclasses import replace

import numpy as np
import pytest
from helpers import QUICK, same

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.inside.concept_maps import concept_maps, heat_image, maps_bytes, maps_figure
from omnipersona.inside.edit_attention import edit_maps
from omnipersona.inside.figures import heat_figure
from omnipersona.inside.recording import observe
from omnipersona.model.attention import attention_weights

ASK, EDIT = "a photo of <maeve>", "make <maeve> red"
EDITING = replace(QUICK, cfg_img_scale=1.5, cfg_renorm_type="text_channel")  # three branches


@pytest.fixture(scope="module")
def who(bb):
    return Persona(bb, Concept(bb, "maeve").requires_grad_(False))


def test_recording_changes_nothing(who):
    off = who.generate(ASK, 3, QUICK)
    on, maps = concept_maps(who, ASK, 3, QUICK)
    assert same(on.image, off.image)
    assert maps.weights.shape[0] == len(maps.times) == QUICK.num_timesteps - 1
    assert maps.weights.shape[3] == len(maps.labels) == 33
    assert (maps.weights >= 0).all() and (maps.weights.sum(3) <= 1.0001).all() and maps.weights.sum() > 0


def test_maps_are_the_weights_of_the_attention(who):
    "The first step's columns, computed here from the queries and keys that `attend` is given, are the named tokens."
    own = []

    def look(layer, q, k, mask):
        if q.shape[2] < k.shape[2]:  # after a cache: a step
            own.append(attention_weights(q.float(), k.float(), mask)[0])

    with observe(who.bb, look):
        off = who.generate(ASK, 3, QUICK)
    on, maps = concept_maps(who, ASK, 3, QUICK)
    assert same(on.image, off.image)
    first, n_und = own[0], 2  # (heads, [start, end, latents], keys); the gen tokens are the cached gen places
    n_cached = first.shape[-1] - first.shape[1]  # keys: [und | gen]
    gen = first[:, n_und:, n_cached - 16 : n_cached].transpose(1, 2).flatten(2).numpy()
    assert np.allclose(gen, maps.weights[0, 0, :, 17:].reshape(4, 16, -1), atol=1e-5)
    outside = 1 - first[:, n_und:, n_cached + n_und :].sum(-1)  # of the picture, its own patches
    assert np.allclose(outside.numpy(), maps.outside[0, 0].reshape(4, -1), atol=1e-5)


def test_shares_of_the_context(who):
    "At most all of it, larger than the share of everything, and the same thing when multiplied back."
    m = concept_maps(who, ASK, 3, QUICK)[1]
    one = dict(step=1, layer=1, head=3)
    share = m.map(**one, of="context")
    assert (share <= 1.0001).all() and (share >= m.map(**one) - 1e-6).all()
    assert np.allclose(share * m.outside[1, 1, 3], m.map(**one), atol=1e-6)
    with pytest.raises(OmniError, match="of='sky'.*context"):
        m.map(of="sky")
    with pytest.raises(OmniError, match="rollout.*of='context'"):
        m.map(how="rollout", of="context")
    m.outside = None
    with pytest.raises(OmniError, match="concept_maps"):
        m.map(of="context")


def test_limits_and_choices(who):
    with pytest.raises(OmniError, match="limit"):
        concept_maps(who, ASK, 3, QUICK, limit=1000)
    _, m = concept_maps(who, ASK, 3, QUICK)
    assert np.allclose(m.map(0) + m.map("und") + m.map("gen"), m.map())
    with pytest.raises(OmniError, match="layer"):
        m.map(layer=99)


def test_memory_is_known_before(who):
    "`maps_bytes` is what is kept, for any choice; over the limit nothing is drawn."
    for kw in ({}, dict(layers=[1]), dict(heads=[0, 3]), dict(heads="mean", every=3)):
        _, m = concept_maps(who, ASK, 0, QUICK, **kw)
        assert m.weights.nbytes + m.outside.nbytes == maps_bytes(who, ASK, QUICK, **kw), kw
    im, calls = who.generate(ASK, 0, QUICK).image, []
    hook = who.bb.model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(OmniError, match="limit.*every"):
            concept_maps(who, ASK, 0, QUICK, limit=maps_bytes(who, ASK, QUICK) - 1)
        with pytest.raises(OmniError, match="limit.*every"):
            concept_maps(who, EDIT, 0, EDITING, limit=1000, source=im)
        with pytest.raises(OmniError, match="limit"):
            edit_maps(who, EDIT, im, 0, EDITING, limit=1000)
    finally:
        hook.remove()
    assert not calls


def test_parts_of_the_whole(who):
    _, m = concept_maps(who, ASK, 2, QUICK)
    _, a = concept_maps(who, ASK, 2, QUICK, layers=[1], heads=[2], every=2)
    _, b = concept_maps(who, ASK, 2, QUICK, heads="mean")
    assert np.array_equal(a.weights, m.weights[::2, 1:, 2:3])
    assert np.allclose(b.weights, m.weights.mean(2, keepdims=True), atol=1e-6)
    assert np.allclose(a.map("gen", layer=1), a.map("gen")) and a.times == m.times[::2]
    with pytest.raises(OmniError, match="layer=0.*one of 1"):
        a.map(layer=0)


def test_figures_of_maps(who):
    "One scale for the maps of a row, from 0 to the row's maximum; a colour bar for each row; no reserved name."
    _, m = concept_maps(who, ASK, 2, QUICK)
    assert heat_image(m.picture, m.map(), size=96).size == (96, 96)
    fig = maps_figure(m)
    assert len(fig.axes) == 2 * 3 + 2  # the picture and two layers, und and gen; two bars
    for row, expert in zip((fig.axes[1:3], fig.axes[4:6]), ("und", "gen")):
        top = 100 * max(m.map(expert, layer=i).max() for i in (0, 1))
        assert all(ax.images[-1].get_clim() == pytest.approx((0, top)) for ax in row)
    texts = [t.get_text() for t in fig.findobj(lambda x: hasattr(x, "get_text"))]
    assert "und tokens" in texts and not any("name_0" in t for t in texts)
    assert len(heat_figure({"": [(m.picture, None, "a")]}).axes) == 1
