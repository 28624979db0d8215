"Maps against outlines: scores by brute force, photographs with a known outline, characters found in pictures."

import numpy as np
import pytest
import torch

from omnipersona.basics import OmniError
from omnipersona.concept.persona import Persona
from omnipersona.concept.requests import request_segments
from omnipersona.inside.localization import (
    best_iou,
    cells_on,
    find_character,
    iou_by_layer,
    photo_maps,
    pointing_by_layer,
    pointing_game,
    shuffled_iou,
)
from omnipersona.inside.recording import observe
from omnipersona.model.attention import attention_weights
from omnipersona.model.segments import LatentImage, pack

ASK = "a photo of <maeve> at the beach"


@pytest.fixture(scope="module")
def who(bb, concept):
    return Persona(bb, concept)


def test_pointing():
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    assert pointing_game([[1, 0], [0, 0]], mask) and not pointing_game([[0, 1], [0, 0]], mask)


def test_maps_of_a_photograph(bb, who, world, char):
    "The weights of the attention itself, for name, und and gen columns; the outline is the photograph's."
    photo = world.photo(char, seed=5)
    maps = photo_maps(who, photo, "a photo of <maeve>", t=0.5, seed=3)
    prompts, _, q = request_segments(bb, "a photo of <maeve>", who.concepts)
    z = bb.encode_latents(photo.image)[0]
    canvas = LatentImage(z.x, z.grid, 0.5, bb.initial_noise([3])[0])
    b = pack([[*prompts, q, canvas]], bb.model.special, bb.model.config.latent_channels, who.concepts.gen_ids)
    seen = {}

    def look(layer, q, k, mask):
        seen[layer] = attention_weights(q, k, mask)

    with torch.no_grad(), observe(bb, look):
        bb.model(b, splice=who.concepts.splice)
    assert len(seen) == bb.model.config.num_hidden_layers
    ids = torch.cat([b.ids, b.gen_ids], 1)[0].tolist()
    rows = [b.ids.shape[1] + i for i in (b.latent_pos[0] >= 0).nonzero()[:, 0].tolist()]
    for layer, w in seen.items():
        for k, i in enumerate(who.concepts["maeve"].ids):
            want = w[0][:, rows][:, :, ids.index(i)].reshape(-1, *bb.grid)
            assert np.allclose(maps.weights[0, layer, :, k], want, atol=1e-5), (layer, k)
        own = w[0][:, rows][:, :, rows].sum(-1)
        assert np.allclose(maps.outside[0, layer], (1 - own).reshape(-1, *bb.grid), atol=1e-5)
    assert (maps.mask == np.asarray(photo.mask)).all()


def test_pointing_by_layer(who, bb, world, char):
    photo = world.photo(char, seed=5)
    maps = photo_maps(who, photo, "a photo of <maeve>", t=0.5, seed=3)
    t = pointing_by_layer([maps])
    assert set(t) == {"und", "gen", "chance"} and t["chance"][0] == cells_on(photo.mask, bb.grid).mean()
    maps.weights = np.broadcast_to(cells_on(photo.mask, bb.grid).astype(float), maps.weights.shape)
    assert pointing_by_layer([maps])["gen"] == [1.0] * maps.weights.shape[1]


def test_best_iou_by_brute_force():
    r = np.random.default_rng(0)
    for _ in range(20):
        m, k = r.integers(0, 6, (4, 4)).astype(float), r.random((8, 8)) < 0.5
        on = cells_on(k, (4, 4))
        if not on.any():
            continue
        want = max(((m >= t) & on).sum() / ((m >= t) | on).sum() for t in np.unique(m))
        got, t = best_iou(m, k)
        assert got == pytest.approx(want) and ((m >= t) & on).sum() / ((m >= t) | on).sum() == pytest.approx(got)
        assert on.mean() <= shuffled_iou(m, k) <= 1
    with pytest.raises(OmniError, match="no cell"):
        best_iou(m, np.zeros((8, 8), bool))


def test_iou_by_layer(who, world, char):
    many = [photo_maps(who, world.photo(char, seed=5 + i), ASK, seed=i) for i in range(2)]
    t = iou_by_layer(many)
    assert set(t) == {"und", "gen", "shuffled", "other"} and all(len(v) == 2 for v in t.values())
    for m in many:
        m.weights = np.broadcast_to(cells_on(m.mask, (8, 8)).astype(float), m.weights.shape)
    t = iou_by_layer(many)
    assert t["gen"] == t["und"] == [1.0, 1.0] and max(t["shuffled"]) < 1
    with pytest.raises(OmniError, match="at least two"):
        iou_by_layer(many[:1])


def test_the_character_is_found(world, char):
    "In photographs without things the outline found is near the true one, and so are the pixels."
    photos = [world.photo(char, seed=60 + i, thing=None, accessory=None) for i in range(4)]
    for x in photos:
        m, err, s = find_character(x.image, char.traits, x.truth["place"])
        assert (m & x.mask).sum() / (m | x.mask).sum() > 0.7 and err < 0.1 and s.side in ("left", "middle", "right")
