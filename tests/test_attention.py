"Attention: recording changes nothing, maps are shares of attention, and mistakes are named."

import numpy as np
import pytest
import torch
from helpers import QUICK, same

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.inside.concept_maps import concept_maps, heat_image
from omnipersona.inside.localization import pointing_game
from omnipersona.inside.recording import record


@pytest.fixture(scope="module")
def who(bb):
    return Persona(bb, Concept(bb, "maeve").requires_grad_(False))


ASK = "a photo of <maeve>"


def test_recording_changes_nothing(who):
    off = who.generate(ASK, 3, QUICK)
    on, maps = concept_maps(who, ASK, 3, QUICK)
    assert same(on.image, off.image)
    assert (
        maps.weights.shape[0] == len(maps.times) == QUICK.num_timesteps - 1
        and maps.weights.shape[3] == len(maps.labels) == 33
    )
    assert (maps.weights >= 0).all() and (maps.weights.sum(3) <= 1.0001).all() and maps.weights.sum() > 0


def test_weights_are_those_of_attend(who):
    "What is computed beside the model equals what `attend` gives its own recorder, in every guidance branch; columns are the named tokens."
    bb, c = who.bb, who.concepts["maeve"]
    segs, own = [c.prompt(), bb.text(f"a photo of {c.token}")], []
    with record(bb, queries=lambda b, cache: slice(None) if b.x.shape[1] and (b.latent_pos >= 0).any() else None) as tr:
        bb.generate_images([segs], [3], QUICK, who.concepts, negative="all", record=lambda t: lambda layer: own.append)
    assert len(own) == len(tr.entries) > 0
    assert all(np.allclose(w.float().cpu(), e["weights"], atol=1e-5) for w, e in zip(own, tr.entries))
    maps = concept_maps(who, ASK, 3, QUICK)[1]
    first, lu = own[0][0], 2  # (heads, [start, end, latents], keys); the gen tokens are the cached gen slots
    n_key = first.shape[-1] - first.shape[1]  # cached keys: [und | gen]
    assert np.allclose(
        first[:, lu:, n_key - 16 : n_key].transpose(1, 2).flatten(2).numpy(),
        maps.weights[0, 0, :, 17:].reshape(4, 16, -1),
        atol=1e-5,
    )
    outside = 1 - first[:, lu:, n_key + lu :].sum(-1)  # of the picture, its own patches
    assert np.allclose(outside.numpy(), maps.outside[0, 0].reshape(4, -1), atol=1e-5)


def test_shares_of_the_context(who):
    "Of what is read outside the picture: at most all of it, larger than of everything, and the same thing when multiplied back."
    m = concept_maps(who, ASK, 3, QUICK)[1]
    one = dict(step=1, layer=1, head=3)
    share = m.map(**one, of="context")
    assert (
        (share <= 1.0001).all()
        and (share >= m.map(**one) - 1e-6).all()
        and np.allclose(share * m.outside[1, 1, 3], m.map(**one), atol=1e-6)
    )
    with pytest.raises(OmniError, match="of='sky'.*context"):
        m.map(of="sky")
    with pytest.raises(OmniError, match="rollout.*of='context'"):
        m.map(how="rollout", of="context")
    m.outside = None
    with pytest.raises(OmniError, match="concept_maps"):
        m.map(of="context")


def test_recording_an_answer(who):
    "A whole row of the recorded weights adds up to 1; the answer stays."
    off = who.ask("is <maeve> a dog ?")
    with record(who.bb) as tr:
        on = who.ask("is <maeve> a dog ?")
    assert on.text == off.text and on.probability == off.probability
    assert all(np.allclose(e["weights"].sum(-1), 1, atol=1e-4) for e in tr.entries)


def test_limits_and_choices(who):
    with pytest.raises(OmniError, match="limit"):
        concept_maps(who, ASK, 3, QUICK, limit=1000)
    _, m = concept_maps(who, ASK, 3, QUICK)
    assert np.allclose(m.map(0) + m.map("und") + m.map("gen"), m.map())
    with pytest.raises(OmniError, match="layer"):
        m.map(layer=99)
    assert heat_image(m.picture, m.map(), size=96).size == (96, 96)


def test_pointing():
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    assert pointing_game([[1, 0], [0, 0]], mask) and not pointing_game([[0, 1], [0, 0]], mask)


# ---- photographs with a known outline -------------------------------------------------------------------------------
def test_maps_of_a_photograph(bb, concept, world, char):
    "The same numbers as attend's own recorder gives, for name, und and gen columns; the outline is the photograph's."
    from omnipersona.concept.requests import request_segments
    from omnipersona.inside.localization import cells_on, photo_maps, pointing_by_layer
    from omnipersona.model.segments import LatentImage, pack

    photo, p = world.photo(char, seed=5), Persona(bb, concept)
    maps = photo_maps(p, photo, "a photo of <maeve>", t=0.5, seed=3)
    prompts, _, q = request_segments(bb, "a photo of <maeve>", p.concepts)
    z = bb.encode_latents(photo.image)[0]
    c = p.concepts["maeve"]
    b = pack(
        [[*prompts, q, LatentImage(z.x, z.grid, 0.5, bb.initial_noise([3])[0])]],
        bb.model.special,
        bb.model.config.latent_channels,
        p.concepts.gen_ids,
    )
    seen = {}
    with torch.no_grad():
        bb.model(b, splice=p.concepts.splice, record=lambda layer: lambda w: seen.__setitem__(layer, w))
    ids = torch.cat([b.ids, b.gen_ids], 1)[0].tolist()
    rows = [b.ids.shape[1] + i for i in (b.latent_pos[0] >= 0).nonzero()[:, 0].tolist()]
    for layer, w in seen.items():
        for k, i in enumerate(c.ids):
            want = w[0][:, rows][:, :, ids.index(i)].reshape(-1, *bb.grid)
            assert np.allclose(maps.weights[0, layer, :, k], want, atol=1e-5), (layer, k)
        own = w[0][:, rows][:, :, rows].sum(-1)
        assert np.allclose(maps.outside[0, layer], (1 - own).reshape(-1, *bb.grid), atol=1e-5)
    assert (maps.mask == np.asarray(photo.mask)).all()
    t = pointing_by_layer([maps])
    assert set(t) == {"und", "gen", "chance"} and t["chance"][0] == cells_on(photo.mask, bb.grid).mean()
    mine = maps.weights.copy()
    mine[:] = cells_on(photo.mask, bb.grid)
    maps.weights = mine
    assert pointing_by_layer([maps])["gen"] == [1.0] * mine.shape[1]
