"ExpertAttention between experts, rollout, source maps, IoU, effects on pictures: identities, bounds, and the official layout."

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import QUICK, same

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.inside.ablation import ablate, answer_attention, answer_effects, answer_logprob, word_figure
from omnipersona.inside.concept_maps import concept_maps, drawn_grid, maps_bytes, maps_figure
from omnipersona.inside.edit_attention import edit_maps, edit_maps_figure, find_character
from omnipersona.inside.expert_attention import (
    expert_attention,
    expert_attention_figure,
    rollout_columns,
    token_kinds,
    with_rollout,
)
from omnipersona.inside.localization import best_iou, cells_on, iou_by_layer, photo_maps, shuffled_iou
from omnipersona.inside.picture_ablation import attention_and_effect, effects_figure, every_token, picture_effects
from omnipersona.inside.recording import packed_request, record, token_labels

ASK, EDIT = "a photo of <maeve> at the beach", "make <maeve> red"
EDITING = replace(QUICK, image=1.5, renorm="text_channel")  # three branches


@pytest.fixture(scope="module")
def who(bb, concept):
    return Persona(bb, concept)


@pytest.fixture(scope="module")
def coupled(bb, concept):
    return Persona(bb, Concept(bb, "maeve", concept.embeddings.detach(), routing="coupled"))


@pytest.fixture(scope="module")
def bagel(tmp_path_factory):
    "The reference checkpoint where it is at hand, else another random one in the official layout."
    from conftest import ROOT

    from omnipersona.model.bagel import random_checkpoint
    from omnipersona.model.loading import load_backbone

    ref = ROOT.parent / "shared" / "bagel_reference" / "A" / "ckpt"
    b = load_backbone(
        ref if ref.is_dir() else random_checkpoint(tmp_path_factory.mktemp("o") / "bagel"),
        torch.float32,
        "cpu",
        image_size=96 if ref.is_dir() else 64,
    )
    b.presets = dict(draw=QUICK, edit=EDITING)
    return Persona(b, Concept(b, "maeve"))


# ---- what is recorded, and what it costs ----------------------------------------------------------------------------
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
            edit_maps(who, im, EDIT, 0, EDITING, limit=1000)
    finally:
        hook.remove()
    assert not calls


def test_parts_of_the_whole(who):
    _, m = concept_maps(who, ASK, 2, QUICK)
    _, a = concept_maps(who, ASK, 2, QUICK, layers=[1], heads=[2], every=2)
    _, b = concept_maps(who, ASK, 2, QUICK, heads="mean")
    assert np.array_equal(a.weights, m.weights[::2, 1:, 2:3]) and np.allclose(
        b.weights, m.weights.mean(2, keepdims=True), atol=1e-6
    )
    assert np.allclose(a.map("gen", layer=1), a.map("gen")) and a.times == m.times[::2]
    with pytest.raises(OmniError, match="layer=0.*one of 1"):
        a.map(layer=0)
    assert maps_figure(a) is not None


@pytest.mark.parametrize("on", ["who", "coupled", "bagel"])
def test_edits_are_the_same_recorded_or_not(on, request, world):
    p = request.getfixturevalue(on)
    im = world.photo(seed=3).image
    draw = lambda f: (torch.manual_seed(0), f())[1]  # BAGEL's autoencoder samples
    off = draw(lambda: p.edit(im, EDIT, 1, EDITING))
    on, m = draw(lambda: concept_maps(p, EDIT, 1, EDITING, source=im))
    assert same(off.image, on.image)
    assert m.weights.shape[0] == EDITING.num_timesteps - 1
    assert (m.weights >= 0).all() and m.weights.sum(3).max() <= 1.0001 and m.weights.sum() > 0


@pytest.mark.parametrize("on", ["who", "bagel"])
def test_source_maps(on, request, world):
    "Shares of attention; the picture stays; what all read is the mean of what each reads; refusals name what there is."
    p = request.getfixturevalue(on)
    im = world.photo(seed=3).image.resize((96, 64)) if on == "bagel" else world.photo(seed=3).image
    draw = lambda f: (torch.manual_seed(0), f())[1]
    off = draw(lambda: p.edit(im, EDIT, 1, EDITING).image)
    r, m = draw(lambda: edit_maps(p, im, EDIT, 1, EDITING))
    assert same(off, r.image)
    assert m.grid == drawn_grid(p.bb, im) and m.latents.shape[:2] == (
        4,
        2 if on == "who" else p.bb.model.config.num_hidden_layers,
    )
    total = m.latents.sum((-2, -1)) + m.photo.sum(-1)
    assert (total > 0).all() and total.max() <= 1.0001
    n = m.grid[0] * m.grid[1]
    each = [m.reads(i, j) for i in range(m.grid[0]) for j in range(m.grid[1])]
    assert np.allclose(np.mean(each, 0), m.read()) and np.allclose(
        [e.ravel()[i] for i, e in enumerate(each)], m.copied().ravel()
    )
    with pytest.raises(OmniError, match="row 99"):
        m.reads(99, 0)
    assert n == m.latents.shape[2] and edit_maps_figure(m, ((0, 0),)) is not None


def test_source_columns_are_attends_own(who, world):
    "The same numbers as the model's own recorder gives, for the same step."
    bb, im, own = who.bb, world.photo(seed=3).image, []
    _, m = edit_maps(who, im, EDIT, 1, QUICK)
    from omnipersona.concept.requests import request_segments

    prompts, _, q = request_segments(bb, EDIT, who.concepts)
    ctx = bb.encode_source(im)[0]
    bb.generate_images([[*prompts, *ctx, q]], [1], QUICK, who.concepts, record=lambda t: lambda layer: own.append)
    w = own[0][0].mean(0)  # [start, end, latents] x [cached und | cached gen | start, end, latents]
    n = bb.grid[0] * bb.grid[1]
    cached = w.shape[1] - w.shape[0]
    at = cached - n  # the source's latents end the cached gen slots
    assert np.allclose(w[2:, at:cached].numpy(), m.latents[0, 0].reshape(n, n), atol=1e-5)


# ---- flow -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("on", ["who", "coupled", "bagel"])
def test_flow_counts_everything_once(on, request, world):
    p = request.getfixturevalue(on)
    im = world.photo(seed=4).image
    for kw in (dict(), dict(image=im, t=0.5), dict(source=im)):
        f = expert_attention(p, ASK, **kw)
        assert (
            np.allclose(f.shares.sum(-1), 1, atol=1e-4)
            and np.allclose(f.experts.sum(-1), 1, atol=1e-4)
            and (f.shares >= -1e-6).all()
        )
        assert ("source" in f.kinds) == ("photo" in f.kinds) == ("source" in kw) and {
            "und",
            "gen",
            "picture",
            "words",
            "name",
        } <= set(f.kinds)
        assert f.shares[:, f.kinds.index("words"), f.kinds.index("picture")].max() == 0
    few = expert_attention(p, ASK, per_kind=3)
    assert few.kinds == expert_attention(p, ASK).kinds and np.allclose(few.shares.sum(-1), 1, atol=1e-4)
    assert expert_attention_figure(f).axes


def test_flow_is_the_mean_of_the_weights(who):
    "Against all weights, averaged by hand."
    b, _ = packed_request(who, ASK)
    c, f = who.concepts["maeve"], expert_attention(who, ASK, per_kind=10**6)
    with torch.no_grad(), record(who.bb) as tr:
        who.bb.model(b, splice=who.concepts.splice)
    of, Lu = np.array(token_kinds(b, c)), b.ids.shape[1]
    for l, e in enumerate(tr.entries):
        w = e["weights"][0].mean(0)
        for i, k in enumerate(f.kinds):
            for j, m in enumerate(f.kinds):
                assert f.shares[l, i, j] == pytest.approx(w[of == k][:, of == m].sum(1).mean(), abs=1e-5)
        assert f.experts[l, 1, 0] == pytest.approx(w[Lu:, :Lu].sum(1).mean(), abs=1e-5) and f.across["und reads gen"][
            l
        ] == pytest.approx(w[:Lu, Lu:].sum(1).mean(), abs=1e-5)


def test_flow_refuses(who):
    with pytest.raises(OmniError, match="t=0"):
        expert_attention(who, ASK, t=0)
    with pytest.raises(OmniError, match="nobody"):
        expert_attention(who, "a photo of <nobody>")


# ---- rollout --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("on", ["who", "coupled", "bagel"])
def test_rollout_is_the_product_of_all_layers(on, request):
    p = request.getfixturevalue(on)
    b, _ = packed_request(p, ASK)
    N = b.mask.shape[1]
    at = [0, 3, N - 1]
    with torch.no_grad():
        with record(p.bb) as tr, rollout_columns(p.bb, at, chunk=7) as r:
            on = p.bb.model(b, splice=p.concepts.splice)
        off = p.bb.model(b, splice=p.concepts.splice)
    R = np.eye(N)
    for e in tr.entries:
        R = (0.5 * np.eye(N) + 0.5 * e["weights"][0].mean(0)) @ R
    assert (
        np.allclose(R[:, at], r.value.numpy(), atol=1e-5)
        and torch.equal(on.gen, off.gen)
        and torch.equal(on.und, off.und)
    )


def test_rollout_of_a_drawing_and_of_an_edit(who, world):
    _, m = concept_maps(who, ASK, 1, QUICK, every=2)
    with pytest.raises(OmniError, match="with_rollout"):
        m.map(how="rollout")
    m = with_rollout(who, ASK, m)
    assert m.rollout.shape == (2, 33, *who.bb.grid) and (m.rollout >= 0).all() and m.rollout.sum(1).max() <= 1
    assert np.allclose(m.map("gen", how="rollout"), m.rollout[:, 17:].sum(1).mean(0)) and np.allclose(
        m.map(5, step=1, how="rollout"), m.rollout[1, 5]
    )
    with pytest.raises(OmniError, match="all layers"):
        m.map(layer=0, how="rollout")
    im = world.photo(seed=3).image
    _, e = concept_maps(who, EDIT, 1, EDITING, source=im)
    assert with_rollout(who, EDIT, e, im).rollout.shape == (4, 33, *who.bb.grid)


def test_a_cached_pass_cannot_be_rolled_out(who):
    with pytest.raises(OmniError, match="one pass"):
        with rollout_columns(who.bb, [0]):
            who.generate(ASK, 0, QUICK)
    assert who.generate(ASK, 0, QUICK).image is not None  # the hooks are gone


# ---- scores ---------------------------------------------------------------------------------------------------------
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
    "In photographs without things the outline found is near the true one, and what is nearer in pixels is not worse."
    photos = [world.photo(char, seed=60 + i, thing=None, accessory=None) for i in range(4)]
    for x in photos:
        m, err, s = find_character(x.image, char.traits, x.truth["place"])
        assert (m & x.mask).sum() / (m | x.mask).sum() > 0.7 and err < 0.1 and s.side in ("left", "middle", "right")


# ---- effects --------------------------------------------------------------------------------------------------------
def test_effects_on_pictures(who, bb, concept):
    e = picture_effects(who, ASK, {"none": [0], "gen": "gen"}, 1, QUICK, other=who.concepts["maeve"])
    assert (e.pixels == 0).all() and all(same(e.whole, x) for x in e.pictures)  # swapped with itself
    e = picture_effects(who, ASK, None, 1, QUICK)
    assert e.labels == ["und", "gen"] and (e.pixels > 0).all()
    assert same(e.whole, who.generate(ASK, 1, QUICK).image) and same(
        e.pictures[1], Persona(bb, ablate(concept, "gen")).generate(ASK, 1, QUICK).image
    )
    with pytest.raises(OmniError, match="at least one group"):
        picture_effects(who, ASK, {}, 1, QUICK)
    assert effects_figure(e).axes and "without gen" in repr(e)


def test_effects_of_the_second_of_two(bb, concept):
    "The other concept, and the slots of both, stay as they are; also for answers and edits."
    p = Persona(
        bb,
        [
            Concept(bb, "bo", torch.randn(33, 64, generator=torch.Generator().manual_seed(1))),
            Concept(bb, "maeve", concept.embeddings.detach()),
        ],
    )
    e = picture_effects(p, ASK, {"all": [1, 2]}, 1, QUICK, other=p.concepts["maeve"])
    assert e.pixels[0] == 0
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
    q = Persona(bb, [p.concepts["bo"], even])
    assert np.abs(answer_effects(q, "what is the toy of <maeve> ?", "a red kite")[1:]).max() < 1e-4


def test_effects_with_a_judge_and_on_edits(who, judge, world, char):
    im = world.photo(char, seed=3).image
    with pytest.raises(OmniError, match="real=()"):
        picture_effects(who, EDIT, None, 0, EDITING, im, judge=judge)
    e = picture_effects(
        who, EDIT, every_token(who.concepts["maeve"]), 0, replace(EDITING, num_timesteps=2), im, judge=judge, real=[im]
    )
    assert e.identity.shape == e.pixels.shape == (33,) and np.isfinite(e.identity).all()
    _, m = concept_maps(who, EDIT, 0, replace(EDITING, num_timesteps=2), source=im)
    r = attention_and_effect(m, e)
    assert (
        r["mass"].shape == (33,)
        and set(r["rank correlation"]) == {"pixels", "identity"}
        and all(abs(v) <= 1 for v in r["rank correlation"].values() if v == v)
    )
    with pytest.raises(OmniError, match="every_token"):
        attention_and_effect(m, replace(e, labels=["x"] * 33))


def test_words_and_tokens(who):
    q, a = "what is the toy of <maeve> ?", "a red kite"
    m = answer_attention(who, q, a)
    labels = token_labels(who.concepts["maeve"])
    f = word_figure(m, a.split(), labels)
    assert [t.get_text() for t in f.axes[0].get_yticklabels()] == ["a", "red", "kite", "(end)"]
    with pytest.raises(OmniError, match="does not fit"):
        word_figure(m, ["a"], labels)


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
    assert (
        answer_logprob(bagel, "who is <maeve> ?", "a dog") < 0
        and answer_attention(bagel, "who is <maeve> ?", "a dog").shape[1] == 33
    )
    assert picture_effects(bagel, ASK, None, 1).pixels.shape == (2,)
