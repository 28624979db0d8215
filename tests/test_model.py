"The model from a user's side: layout, cache and batch change no result, and what is saved comes back."

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import QUICK, SIZES, apart, random_backbone, same, unchanged, weights

from omnipersona.basics import OmniError
from omnipersona.model import attention
from omnipersona.model.attention import attend
from omnipersona.model.experts import MoTConfig
from omnipersona.model.flow import PRESETS, SamplingConfig, euler, guide, interpolate, time_grid
from omnipersona.model.generate import contexts, generate_text, prefill
from omnipersona.model.loading import load_backbone
from omnipersona.model.mot import MoT, image_loss, text_loss
from omnipersona.model.segments import LatentImage, Text, pack
from omnipersona.model.tokenizer import tiny_tokenizer


def close(a, b):
    return torch.allclose(a, b, atol=2e-5, rtol=1e-4)


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lay(bb, samples, **kw):
    "A batch of samples, as the backbone's model reads it."
    return pack(samples, bb.model.special, bb.model.config.latent_channels, **kw)


def noised(seg, t, seed=0):
    return LatentImage(seg.x, seg.grid, t, seeded(*seg.x.shape, seed=seed))


@pytest.fixture(scope="module")
def pictures(world):
    return [world.photo(seed=i).image for i in range(3)]


@pytest.fixture(scope="module")
def samples(bb, pictures):
    "One of each task: caption, question, drawing, editing, words alone."
    s, c, t = bb.encode_vit(pictures), bb.encode_latents(pictures), bb.text
    return [
        [s[0], t("a photo of a red dog at the beach", loss=True)],
        [s[1], t("what is in the photo ?"), t("a cat", loss=True)],
        [t("a photo of a green kite at the moon"), noised(c[0], 0.3), noised(c[0], 0.8, 1)],
        [c[1], s[1], t("make the dog blue"), noised(c[2], 0.6, 2)],
        [t("yes")],
    ]


# ---- layout -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_packed_equals_one_at_a_time(bb, samples):
    b = lay(bb, samples)
    h = bb.model(b)
    img = image_loss(bb.model, h, b)
    for i, s in enumerate(samples):
        one = lay(bb, [s])
        h1 = bb.model(one)
        u, g = h1.und.shape[1], h1.gen.shape[1]
        assert close(h.und[i, :u], h1.und[0]) and close(h.gen[i, :g], h1.gen[0])
        assert close(img[i], image_loss(bb.model, h1, one).sum())
        assert (one.labels[0] == b.labels[i, :u]).all() and (b.labels[i, u:] == -100).all()
        assert b.valid[i].sum() == one.valid.sum()


@torch.no_grad()
def test_order_of_the_samples_does_not_matter(bb, samples):
    h, back = bb.model(lay(bb, samples)), bb.model(lay(bb, samples[::-1]))
    assert close(h.und, back.und.flip(0)) and close(h.gen, back.gen.flip(0))


@torch.no_grad()
def test_no_later_token_sees_a_noised_picture(bb, samples):
    "Neither the words after it nor another noised picture; all that follow see a clean one."
    ctx, first, second = samples[3][:3], noised(samples[3][0], 0.4), noised(samples[3][0], 0.9, 5)
    after = bb.text("a photo")
    n, m = len(after.ids) + 2, len(second.x)

    def out(segments):
        return bb.model(lay(bb, [segments]))

    without = out([*ctx, after])
    assert close(out([*ctx, first, after]).und[0, -n:], without.und[0, -n:])
    assert close(out([*ctx, first, second]).gen[0, -m:], out([*ctx, second]).gen[0, -m:])
    clean = LatentImage(first.x, first.grid)
    assert not close(out([*ctx, clean, after]).und[0, -n:], without.und[0, -n:])


@torch.no_grad()
def test_words_do_not_see_the_future(bb):
    ids = bb.text("a photo of a red dog").ids
    a = bb.model(lay(bb, [[Text(ids)]])).und
    b = bb.model(lay(bb, [[Text(ids[:-1] + bb.tok("cat"))]])).und
    assert close(a[0, : len(ids)], b[0, : len(ids)]) and not close(a[0, len(ids) :], b[0, len(ids) :])


@torch.no_grad()
def test_loss_counts_labelled_words_only(bb, samples):
    b = lay(bb, samples[2:3] + samples[4:])
    h = bb.model(b)
    assert text_loss(bb.model, h, b) == 0 and (image_loss(bb.model, h, b) > 0).tolist() == [True, False]


@torch.no_grad()
def test_a_weight_for_every_token(bb, samples):
    "One number weighs a picture; as many as it has tokens weigh these. Two halves make the whole."
    seg, n = samples[3][-1], len(samples[3][-1].x)
    first = torch.arange(n) < n // 2

    def loss(w):
        b = lay(bb, [[*samples[3][:3], replace(seg, weight=w)]])
        return image_loss(bb.model, bb.model(b), b)[0]

    one, a, b = loss(1.0), loss(first * 2.0 + 1e-9), loss(~first * 2.0 + 1e-9)
    assert close(loss(0.5), one / 2) and close(loss(torch.full((n,), 0.5)), one / 2)
    assert close((a + b) / 2, one) and not close(a, b)


def test_a_grid_larger_than_the_table_is_refused(bb):
    with pytest.raises(OmniError, match="9 x 9"):
        lay(bb, [[LatentImage(torch.zeros(81, bb.model.config.latent_channels), (9, 9))]])


# ---- cache --------------------------------------------------------------------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_cached_equals_uncached(bb, samples, cut):
    "Wherever an edit is cut: the first part read into a cache, the rest read after it."
    s = samples[3]
    cache = prefill(bb.model, [s[:cut]])
    rest = bb.model(lay(bb, [s[cut:]], start=cache.position.tolist()), cache)
    whole = bb.model(lay(bb, [s]))
    u, g = rest.und.shape[1], rest.gen.shape[1]
    assert close(rest.und, whole.und[:, -u:]) and close(rest.gen, whole.gen[:, -g:])


@torch.no_grad()
def test_words_said_are_the_words_of_rereading_everything(bb, samples):
    ctx = samples[1][:2]
    said = generate_text(bb.model, prefill(bb.model, [ctx]), 6)[0]
    ids = [bb.model.special.bos]
    for i, lp in zip(said.ids, said.logprobs):
        logits = bb.model.logits(bb.model(lay(bb, [[*ctx, Text(ids, wrap=False)]])).und[0, -1])
        logits[bb.model.config.spare :] = -torch.inf  # spare rows are no words
        logp = logits.log_softmax(-1)
        assert int(logp.argmax()) == i and abs(float(logp[i]) - lp) < 1e-3
        ids.append(i)


def test_reading_leaves_a_cache_as_it_was(bb, samples):
    cache = prefill(bb.model, [samples[0]])
    n, keys = len(cache), [k.clone() for k in cache.keys]
    generate_text(bb.model, cache, 3)
    prefill(bb.model, [samples[4]], cache)
    assert len(cache) == n and all(torch.equal(a, b) for a, b in zip(keys, cache.keys))


# ---- batches of answers and pictures ------------------------------------------------------------------------------
def test_batched_answers_equal_single_ones(bb, samples):
    ctx = [samples[0][:1], samples[1][:2], samples[4], samples[3][:3]]
    many = bb.generate_text(ctx, max_new_tokens=5)
    assert all(i < bb.tok.spare for _, said in many for i in said.ids)
    for c, (text, said) in zip(ctx, many):
        one, s = bb.generate_text([c], max_new_tokens=5)[0]
        assert text == one and said.finished == s.finished and np.allclose(said.logprobs, s.logprobs, atol=1e-3)
    p = bb.probability(ctx, ["yes", "no"])
    assert torch.allclose(p.sum(1), torch.ones(4)) and close(p[1:2], bb.probability(ctx[1:2], ["yes", "no"]))


@pytest.mark.parametrize(
    "g",
    [
        QUICK,
        replace(QUICK, cfg_img_scale=1.5, cfg_renorm_type="text_channel"),
        replace(QUICK, cfg_text_scale=1.0),
        replace(QUICK, cfg_interval=(0.4, 1.0)),
    ],
    ids=["text", "text and image", "none", "interval"],
)
def test_batched_drawing_equals_single(bb, samples, g):
    "Contexts of different length and kind in one batch; one of them is empty."
    ctx = [samples[2][:1], samples[3][:3], []]
    for i, (c, im) in enumerate(zip(ctx, bb.generate_images(ctx, [7, 8, 9], g))):
        assert apart(im, bb.generate_images([c], [7 + i], g)[0]) <= 1


def test_seeds_of_pictures_and_of_words(bb, samples):
    a, b, c = (bb.generate_images([samples[2][:1]], [s], QUICK)[0] for s in (3, 3, 4))
    assert a.size == (64, 64) and a.mode == "RGB" and same(a, b) and not same(a, c)

    def hot(seed):
        g = torch.Generator().manual_seed(seed)
        return bb.generate_text([samples[4]], temperature=1.0, max_new_tokens=6, generator=g)[0][0]

    assert hot(0) == hot(0) and len({hot(s) for s in range(5)}) > 1


def test_reading_and_drawing_leave_no_trace(bb, samples):
    before = weights(bb.model)
    state = torch.random.get_rng_state()
    bb.generate_text([samples[0]])
    bb.generate_images([samples[2][:1]], [0], QUICK)
    bb.encode_latents([bb.decode_latents(bb.initial_noise([0]))[0]])
    assert unchanged(bb.model, before) and torch.equal(state, torch.random.get_rng_state())


# ---- guidance -----------------------------------------------------------------------------------------------------
def test_guidance_identities():
    v, u, w = (seeded(2, 16, 8, seed=s) for s in range(3))
    for renorm in ("global", "channel", "text_channel", "none"):
        g = SamplingConfig(5, 1.0, 3.0, 2.0, (0.0, 1.0), renorm)
        assert close(guide(v, v, v, g), v)  # contexts that agree
        assert close(
            guide(v, u, None, replace(g, cfg_text_scale=1.0, cfg_img_scale=1.0)), v
        )  # scale one is the whole context
        if renorm in ("global", "channel"):
            dims = (-2, -1) if renorm == "global" else -1
            assert (guide(v, u, w, g).norm(dim=dims) <= v.norm(dim=dims) * (1 + 1e-5)).all()  # never longer than it was
    assert close(guide(v, u, w, SamplingConfig(5, 1.0, 3.0, 2.0, (0.0, 1.0), "none")), w + 2 * (u + 3 * (v - u) - w))
    with pytest.raises(ValueError, match="sideways"):
        guide(v, u, None, replace(QUICK, cfg_renorm_type="sideways"))


def test_guidance_that_never_acts_is_none(bb, samples):
    ctx = [samples[3][:3]]

    def drawn(**changes):
        return bb.generate_images(ctx, [1], replace(QUICK, **changes))[0]

    none = drawn(cfg_text_scale=1.0)
    assert same(none, drawn(cfg_interval=(1.0, 1.0))) and same(none, drawn(cfg_text_scale=0.5, cfg_img_scale=3.0))
    assert not same(none, drawn(cfg_text_scale=4.0))


def test_contexts_of_guidance(samples):
    c, s, t = samples[3][:3]
    assert contexts([c, s, t]) == ([c, s, t], [c, s], [t])
    assert contexts([t, c, s, t])[1] == [t, c, s] and contexts([t, c, s, t], "all")[1] == [c, s]
    assert contexts([t, t], "all")[1] == []


def test_presets_are_bagels():
    assert PRESETS["bagel_draw"] == SamplingConfig(50, 3.0, 4.0, 1.0, (0.4, 1.0), "global", 0.0)
    assert PRESETS["bagel_edit"] == SamplingConfig(50, 3.0, 4.0, 2.0, (0.0, 1.0), "text_channel", 0.0)


# ---- the same as in the libraries ---------------------------------------------------------------------------------
@pytest.mark.parametrize("points,shift", [(2, 1.0), (6, 1.0), (25, 3.0)])
def test_flow_is_that_of_diffusers(points, shift):
    "Times, noised pictures and Euler steps of `FlowMatchEulerDiscreteScheduler`."
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, points)[:-1].tolist())
    times = time_grid(points, shift)
    assert torch.allclose(scheduler.sigmas, times, atol=1e-6)
    clean, noise = seeded(3, 4, 8), seeded(3, 4, 8, seed=1)

    def velocity(x, t):
        return torch.tanh(2 * x) + t

    x = noise
    for step, t in zip(scheduler.timesteps, times[:-1]):
        at, v = interpolate(clean, noise, t)
        assert close(scheduler.scale_noise(clean, step[None], noise), at) and close(at - t * v, clean)
        x = scheduler.step(velocity(x, float(t)), step, x).prev_sample
    assert torch.allclose(x, euler(velocity, noise, times), atol=1e-4)


@pytest.mark.parametrize("has_gqa", [True, False], ids=["shared keys", "before PyTorch 2.5"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
def test_shared_keys_equal_repeated_ones(monkeypatch, has_gqa, masked):
    "Where PyTorch cannot share keys, `attend` repeats them; where a gradient is needed, it computes step by step."
    if has_gqa and not attention.HAS_GQA:
        pytest.skip("this PyTorch has no enable_gqa")
    monkeypatch.setattr(attention, "HAS_GQA", has_gqa)
    q, k, v = seeded(2, 28, 5, 16), seeded(2, 4, 30, 16, seed=1), seeded(2, 4, 30, 16, seed=2)
    mask = seeded(2, 5, 30, seed=3) > -1 if masked else None
    repeated = [x.repeat_interleave(7, 1) for x in (k, v)]
    want = torch.nn.functional.scaled_dot_product_attention(q, *repeated, attn_mask=mask[:, None] if masked else None)
    assert close(attend(q, k, v, mask), want) and close(attend(q, *repeated, mask), want)
    assert close(attend(q.clone().requires_grad_(), k, v, mask), want)


# ---- explicit formats and devices ---------------------------------------------------------------------------------
@pytest.mark.parametrize("default", ["float64", "bfloat16", "meta"])
def test_defaults_of_torch_do_not_matter(bb, pictures, default):
    "The same seed gives the same picture and the same answer under another default format or device."

    def everything():
        source = bb.encode_source(pictures[:1])[0]
        edited = bb.generate_images([[*source, bb.text("make the dog blue")]], [3], QUICK)[0]
        question = [[source[1], bb.text("what is in the photo ?")]]
        return edited, bb.generate_text(question, max_new_tokens=5), bb.probability(question, ["yes", "no"]).tolist()

    image, answer, probability = everything()
    try:
        if default == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, default))
        again = everything()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert same(again[0], image) and again[1:] == (answer, probability)


# ---- saved and loaded ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    "A backbone of its own, and the folder it was saved to."
    b = random_backbone(1)
    before = weights(b.model), weights(b.ae)
    folder = tmp_path_factory.mktemp("bb") / "b"
    b.save_pretrained(folder)
    return b, before, folder


def test_saving_does_not_change_the_backbone(stored):
    "Stored in half the bytes; what is in memory keeps its digits."
    b, (model, ae), _ = stored
    assert b.dtype == torch.float32 and unchanged(b.model, model) and unchanged(b.ae, ae)


def test_saved_then_loaded(stored, tmp_path, samples, pictures):
    "bf16 on disk: the first reload is near, the reload of a reload is equal."
    b, _, folder = stored
    once = load_backbone(folder)
    once.save_pretrained(tmp_path / "again")
    twice = load_backbone(tmp_path / "again")
    assert b.fingerprint == once.fingerprint == twice.fingerprint and once.dtype == torch.float32

    def about(x):
        return x.size, x.name, x.presets, x.tok.names, x.tok.spare, x.vae_resize, x.vit_resize

    def through_latents(x):
        return x.decode_latents(x.encode_latents(pictures[:1])[0].x[None])[0]

    assert about(once) == about(b)
    stored_weights = {k: v.bfloat16().float() for k, v in b.model.state_dict().items()}
    assert unchanged(once.model, stored_weights) and unchanged(twice.model, stored_weights)
    ctx = [[*once.encode_vit(pictures[:1]), once.text("what is in the photo ?")]]
    assert once.generate_text(ctx, max_new_tokens=5) == twice.generate_text(ctx, max_new_tokens=5)
    assert same(once.generate_images(ctx, [0], QUICK)[0], twice.generate_images(ctx, [0], QUICK)[0])
    assert apart(through_latents(b), through_latents(once)) < 40
    assert sorted(p.suffix for p in folder.rglob("*") if p.is_file() and p.suffix != ".json") == [".safetensors"] * 3


def test_computes_in_bf16(stored, pictures):
    b = load_backbone(stored[2], dtype=torch.bfloat16)
    ctx = [[*b.encode_vit(pictures[:1]), b.text("what is in the photo ?")]]
    assert b.dtype == torch.bfloat16 and len(b.generate_text(ctx, max_new_tokens=3)) == 1
    edit = b.encode_source(pictures[:1])[0] + ctx[0][1:]
    assert b.generate_images([edit], [0], QUICK)[0].size == (64, 64)
    assert b.fingerprint == stored[0].fingerprint


def test_fingerprint_tells_backbones_apart(bb):
    a = random_backbone(2)
    seen = {bb.fingerprint, a.fingerprint, random_backbone(2, hidden_size=32).fingerprint}
    assert len(seen) == 3
    with torch.no_grad():
        for p in a.model.parameters():
            p.mul_(1.02)  # as a training of everything would
    assert a.fingerprint not in seen


@pytest.mark.parametrize(
    "part",
    [
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.model.layers.0.mlp_moe_gen.up_proj.weight",
        "connector.fc1.weight",
        "vit_model.vision_model.post_layernorm.weight",
    ],
)
def test_fingerprint_sees_every_part(part):
    "A backbone of which only one part was trained further is another backbone."
    a = random_backbone(2)
    before = a.fingerprint
    with torch.no_grad():
        a.model.get_parameter(part).mul_(1.5)
    assert a.fingerprint != before


FILES = [
    "config.json",
    "model.safetensors",
    "backbone.json",
    "tokenizer.json",
    "ae/config.json",
    "ae/outer.json",
    "ae/diffusion_pytorch_model.safetensors",
    "ae/refiner.safetensors",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["missing", "cut short"])
def test_incomplete_folder(stored, tmp_path, name, harm):
    import shutil

    shutil.copytree(stored[2], tmp_path / "b")
    f = tmp_path / "b" / name
    if harm == "missing":
        f.unlink()
    else:
        f.write_bytes(f.read_bytes()[:20])
    with pytest.raises(OmniError) as e:
        load_backbone(tmp_path / "b")
    assert name in str(e.value) or harm == "cut short" and str(tmp_path / "b") in str(e.value)


def test_no_folder_and_no_name():
    for name in ("huge", "/nowhere/at/all"):
        with pytest.raises(OmniError, match=f"{name}.*tiny"):
            load_backbone(name)


def test_sizes_survive_a_file(stored, tmp_path):
    config = stored[0].model.config
    config.save_pretrained(tmp_path)
    again = MoTConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))
    assert again == config and MoT(again).config.latent_channels == config.latent_channels
    assert SIZES["hidden_size"] == again.hidden_size


# ---- what is typed ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text,word",
    [
        ("a photo of a dragon", "dragon"),
        ("yes <|im_end|>", "<|im_end|>"),
        ("yes <|IM_END|>", "<|im_end|>"),  # small letters are made after the text is typed
        ("<|vision_start|>", "<|vision_start|>"),
    ],
)
def test_words_it_does_not_know(bb, text, word):
    with pytest.raises(OmniError) as e:
        bb.text(text)
    assert word in str(e.value)


def test_the_tiny_tokenizer_normalises(bb):
    assert bb.tok("What is the TOY, of <name_3>?") == bb.tok("what is the toy of <name_3> ?")


def test_the_shipped_tokenizer_is_the_one_in_the_code(tiny):
    assert tiny.tok.hf.to_str() == tiny_tokenizer().hf.to_str()
