"The official layout from a user's side: one entrance, fewer bits, concepts on it, memory that fits."

from dataclasses import replace

import pytest
import torch
from helpers import QUICK, SHORT, unchanged
from PIL import Image

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import Learner, learn
from omnipersona.concept.losses import task_losses
from omnipersona.concept.persona import Persona
from omnipersona.data import ConceptData
from omnipersona.model.bagel import random_checkpoint
from omnipersona.model.loading import load_backbone
from omnipersona.model.mot import image_loss
from omnipersona.model.segments import LatentImage, pack

FORMATS = dict(
    float32=dict(dtype=torch.float32),
    bf16=dict(dtype=torch.bfloat16),
    nf4=dict(dtype=torch.float32, quant="nf4"),
    int8=dict(dtype=torch.float32, quant="int8"),
)
TOLERANCE = dict(bf16=0.05, nf4=0.3, int8=0.05)  # relative, of last hidden states of small random weights


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("official") / "bagel-small")


@pytest.fixture(scope="session")
def exact(folder):
    return load_backbone(folder, torch.float32, "cpu")


@pytest.fixture(scope="session", params=FORMATS)
def loaded(request, folder):
    return request.param, load_backbone(folder, device="cpu", **FORMATS[request.param])


@pytest.fixture(scope="session")
def segments(exact, world):
    "A source picture, an instruction and a noised target, the same for every format."
    ctx = exact.encode_source(world.photo(seed=1).image)[0]
    z = ctx[0].x
    return [
        *ctx,
        exact.text("make it red"),
        LatentImage(z, ctx[0].grid, 0.6, torch.randn(z.shape, generator=torch.Generator().manual_seed(0))),
    ]


def read(b, segments):
    with torch.no_grad():
        return b.model(pack([segments], b.model.special, b.model.config.latent_channels).to("cpu", b.dtype))


def everything(m):
    return {k: v.clone() for k, v in m.state_dict().items()}


# ---- one entrance -------------------------------------------------------------------------------------------------
def test_one_entrance(folder, exact, monkeypatch):
    "A folder, the name of the official checkpoint and a hub id are the same thing, and only what is needed is downloaded."
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo, allow_patterns: asked.append((repo, allow_patterns)) or str(folder),
    )
    for name in ("bagel-7b-mot", "somebody/their-bagel"):
        assert load_backbone(name, torch.float32, "cpu").fingerprint == exact.fingerprint
    assert [r for r, _ in asked] == ["ByteDance-Seed/BAGEL-7B-MoT", "somebody/their-bagel"]
    assert "ema.safetensors" in asked[0][1] and not any(p in asked[0][1] for p in ("*", "*.safetensors"))


def test_the_hub_says_no(monkeypatch):
    import huggingface_hub

    def refuse(*a, **k):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(OmniError, match="somebody/nothing.*hub does not give it.*no route"):
        load_backbone("somebody/nothing")
    with pytest.raises(OmniError, match="no such folder"):
        load_backbone("nowhere")


@pytest.mark.parametrize(
    "name", ["llm_config.json", "vit_config.json", "config.json", "ema.safetensors", "ae.safetensors", "tokenizer.json"]
)
def test_a_missing_file_is_named(folder, tmp_path, name):
    import shutil

    f = shutil.copytree(folder, tmp_path / "half")
    (f / name).unlink()
    with pytest.raises(OmniError, match="tokenizer" if name == "tokenizer.json" else name):
        load_backbone(f)


def test_what_cannot_be(folder, monkeypatch):
    with pytest.raises(OmniError, match="quant='fp3'.*nf4, int8"):
        load_backbone(folder, quant="fp3")
    for size in (100, 4096):
        with pytest.raises(OmniError, match=f"image_size={size}.*128"):
            load_backbone(folder, image_size=size)
    with pytest.raises(OmniError, match="quant='nf4'"):
        load_backbone("tiny", quant="nf4")
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else found(n, *a))
    with pytest.raises(OmniError, match=r"omnipersona\[bagel\]"):
        load_backbone(folder, quant="nf4")


def test_image_size_bounds_the_sequence(folder, exact):
    small = load_backbone(folder, torch.float32, "cpu", image_size=64)
    im = Image.new("RGB", (300, 200))
    assert small.grid == (4, 4) and exact.grid == (8, 8)
    assert len(small.clean(im)[0].x) < len(exact.clean(im)[0].x) and len(small.seen(im)[0].features) < len(
        exact.seen(im)[0].features
    )
    assert small.generate_images([[small.text("a dog")]], [0], QUICK)[0].size == (64, 64)


# ---- fewer bits ---------------------------------------------------------------------------------------------------
def test_near_float32_and_one_fingerprint(loaded, exact, segments):
    "Outputs within the stated tolerance; a concept of one format can be used in another."
    name, b = loaded
    assert b.fingerprint == exact.fingerprint
    if name == "float32":
        return
    a, h = read(exact, segments), read(b, segments)
    far = lambda x, y: float((x.float() - y).norm() / y.norm())
    print(name, far(h.und, a.und), far(h.gen, a.gen))
    assert max(far(h.und, a.und), far(h.gen, a.gen)) < TOLERANCE[name]


def test_bits_are_saved(folder, exact):
    size = lambda b: sum(p.nbytes for p in b.model.language_model.model.layers.parameters())
    four = load_backbone(folder, torch.float32, "cpu", quant="nf4")
    assert size(four) < 0.25 * size(exact) and all(
        torch.equal(p, exact.model.get_parameter(k)) for k, p in four.model.named_parameters() if ".layers." not in k
    )


def test_concepts_on_it(loaded, data, tmp_path):
    "learn, save, load, ask, draw, edit, replay and two at once; of all numbers only the 33 rows change."
    name, b = loaded
    model, ae = everything(b.model), everything(b.ae)
    c = learn(b, data, "maeve", recipe=SHORT, progress=False)
    start = Learner(b, data, "maeve", recipe=SHORT).concept.embeddings
    assert len(c.embeddings) == 33 and (c.embeddings - start).abs().amax(1).gt(0).all()
    assert all(torch.equal(v, model[k]) for k, v in b.model.state_dict().items()) and all(
        torch.equal(v, ae[k]) for k, v in b.ae.state_dict().items()
    )
    c.save_pretrained(tmp_path / "c")
    again = Concept.from_pretrained(tmp_path / "c", b)
    assert torch.equal(again.embeddings, c.embeddings)
    b.presets = dict(draw=QUICK, edit=QUICK)
    p = Persona(b, [c, Concept(b, "bo", again.embeddings.detach())])
    assert isinstance(p.ask("who is <maeve> and <bo> ?", max_new_tokens=3).text, str)
    assert p.ask("is <maeve> in the photo ?", image=data.images[0], max_new_tokens=3).seconds > 0
    drawn = p.generate("<maeve> with <bo>", seed=0, replay=True)
    assert drawn.image.size == (128, 128) and drawn.trace.request == "<maeve> with <bo>"
    assert p.edit(Image.new("RGB", (96, 64), "teal"), "remove <maeve>", seed=0).image.size == (96, 64)


def test_a_fixed_batch_is_learnt(loaded, data):
    name, b = loaded
    L = Learner(b, data, "maeve", recipe=SHORT)
    batch = step_samples(L.encoded, SHORT.samples, torch.Generator().manual_seed(1))
    total = lambda: sum(l / n for l, n in task_losses(b, L.concept, batch).values())
    first = float(total().detach())
    for _ in range(12):
        L.optimizer.param_groups[0]["lr"] = 0.02
        L.optimizer.zero_grad()
        total().backward()
        L.optimizer.step()
    assert float(total().detach()) < first - 0.05


PHOTOS = dict(
    float32=dict(dtype=torch.float32), bf16=dict(dtype=torch.bfloat16), nf4=dict(dtype=torch.bfloat16, quant="nf4")
)  # nf4 as on a GPU that has bf16


@pytest.mark.parametrize("name", PHOTOS)
def test_real_photographs(shared, folder, name):
    "Two concepts from photographs: the loss of a fixed batch falls, no weight of the backbone changes by one bit, and both serve every request at once."
    b = load_backbone(folder, device="cpu", image_size=96, **PHOTOS[name])
    model, ae = everything(b.model), everything(b.ae)
    made = []
    for who, kind in (("rex", "dog6"), ("pot", "teapot")):
        d = ConceptData.from_folder(shared / "photos" / kind, facts={"toy": "a red ball"})
        L = Learner(b, d, who, recipe=SHORT)
        batch = step_samples(L.encoded, SHORT.samples, torch.Generator().manual_seed(1))

        def total():
            with torch.no_grad():
                return sum(float(l) / n for l, n in task_losses(b, L.concept, batch).values())

        first = total()
        for _ in range(12):
            L.optimizer.param_groups[0]["lr"] = 0.02
            L.optimizer.zero_grad()
            sum(l / n for l, n in task_losses(b, L.concept, batch).values()).backward()
            L.optimizer.step()
        assert total() < first - 0.05 and L.concept.embeddings.shape == (33, 64)
        made.append(learn(b, d, who, recipe=SHORT, progress=False))
        assert made[-1].summary["steps"] == 6
    assert unchanged(b.model, model) and unchanged(b.ae, ae)
    b.presets = dict(draw=QUICK, edit=QUICK)
    p = Persona(b, made)
    assert all(
        isinstance(p.ask(q, image=d.images[0], max_new_tokens=2).text, str)
        for q in ("is <rex> in the photo ?", "who is <rex> and <pot> ?")
    )
    drawn = p.generate("<rex> with <pot>", seed=0, replay=True)
    assert drawn.image.size == (96, 96) and drawn.trace is not None
    assert p.edit(d.images[0], "put <rex> beside it", seed=0).image.size == (96, 96)
    assert unchanged(b.model, model) and unchanged(b.ae, ae)


def test_peft_reads_the_concept(exact, folder, tmp_path):
    "A concept of the quantised backbone, in peft's hands, gives the full one the same embeddings as splicing."
    from peft import PeftModel

    four = load_backbone(folder, torch.float32, "cpu", quant="nf4")
    c = Concept(four, "maeve")
    c.save_pretrained(tmp_path / "c")
    ids = torch.tensor([c.prompt().ids])
    mine = Concept.from_pretrained(tmp_path / "c", exact)
    plain = exact.model.get_input_embeddings()(ids)
    want = mine.splice(ids, plain)
    base = load_backbone(folder, torch.float32, "cpu").model
    with torch.no_grad():
        assert torch.equal(
            PeftModel.from_pretrained(base, tmp_path / "c").get_input_embeddings()(ids), want
        ) and not torch.equal(want, plain)


def test_nf4_is_exact_for_the_weights_it_keeps(folder, segments):
    "Outputs, and gradients of the input, are those of a float32 backbone that has the unpacked weights: quantising costs digits of weights, and nothing else."
    import bitsandbytes as bnb

    four, full = (load_backbone(folder, torch.float32, "cpu", quant=q) for q in ("nf4", None))
    n = 0
    for k, m in four.model.named_modules():
        if isinstance(m, bnb.nn.Linear4bit):
            full.model.get_submodule(k).weight.data.copy_(
                bnb.functional.dequantize_4bit(m.weight.data, m.weight.quant_state)
            )
            n += 1
    assert n == 2 * 2 * 7, "seven linear maps in both experts of both layers"

    def both(b):
        rows = Concept(b, "it", torch.randn(33, 64, generator=torch.Generator().manual_seed(0)) * 0.1)
        t = b.model
        batch = pack([[rows.prompt(), *segments]], t.special, t.config.latent_channels, rows.gen_ids)
        h = t(batch, splice=rows.splice)
        (image_loss(t, h, batch).sum() + h.und.square().mean()).backward()
        return h.und.detach(), h.gen.detach(), rows.rows.grad

    for a, w in zip(both(four), both(full)):
        assert w.norm() > 0 and float((a - w).norm() / w.norm()) < 1e-5


# ---- memory -------------------------------------------------------------------------------------------------------
def test_checkpointing_changes_nothing(bb, data):
    "The same losses and gradients, with and without."

    def gradient(on):
        bb.model.gradient_checkpointing = on
        try:
            L = Learner(bb, data, "maeve", recipe=SHORT)
            ls = task_losses(bb, L.concept, step_samples(L.encoded, SHORT.samples, torch.Generator().manual_seed(0)))
            sum(l for l, _ in ls.values()).backward()
            return {k: float(l.detach()) for k, (l, _) in ls.items()}, L.concept.embeddings.grad
        finally:
            bb.model.gradient_checkpointing = False

    (a, g), (b, h) = gradient(False), gradient(True)
    assert a == b and torch.allclose(g, h, rtol=1e-5, atol=1e-7) and g.abs().sum() > 0


def test_checkpointing_keeps_less(bb, data):
    "Fewer bytes wait for the backward pass."

    def kept(on):
        n = [0]

        def count(t):
            n[0] += t.nbytes
            return t

        bb.model.gradient_checkpointing = on
        try:
            L = Learner(bb, data, "maeve", recipe=SHORT)
            batch = step_samples(L.encoded, SHORT.samples, torch.Generator().manual_seed(0))
            with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
                task_losses(bb, L.concept, batch)
        finally:
            bb.model.gradient_checkpointing = False
        return n[0]

    assert kept(True) < 0.6 * kept(False)


def test_encoders_wait_elsewhere(exact, world):
    "With `offload` they are back where they came from after every use, and give the same."
    im = world.photo(seed=2).image
    moves = []
    both = lambda: (exact.clean(im, torch.Generator().manual_seed(0))[0].x, exact.seen(im)[0].features)
    before = both()
    move = type(exact.ae).to
    exact.offload_encoders = True
    try:
        exact.ae.to = lambda d: moves.append(str(d)) or move(exact.ae, d)
        after = both()
    finally:
        exact.offload_encoders = False
        del exact.ae.to
    assert moves == ["cpu", "cpu"] and all(torch.equal(a, b) for a, b in zip(before, after))


def test_float16_does_not_overflow(exact, folder, segments):
    "Large activations, as real checkpoints have them: finite, and near float32."
    half = load_backbone(folder, torch.float16, "cpu")
    full = load_backbone(folder, torch.float32, "cpu")
    with torch.no_grad():
        for b in (half, full):
            for layer in b.model.language_model.model.layers:
                for m in (layer.mlp, layer.mlp_moe_gen):
                    m.gate_proj.weight.mul_(60)
                    m.up_proj.weight.mul_(60)
                    m.down_proj.weight.mul_(60)
    seen = []
    hook = full.model.language_model.model.layers[-1].register_forward_hook(
        lambda m, i, o: seen.append(o[0].abs().max())
    )
    a, h = read(full, segments), read(half, segments)
    hook.remove()
    assert float(seen[0]) > 65504, "the test must go beyond what float16 can hold"
    assert (
        h.und.isfinite().all() and h.gen.isfinite().all() and float((h.gen.float() - a.gen).norm() / a.gen.norm()) < 0.1
    )


# ---- numbers that are none ----------------------------------------------------------------------------------------
def test_not_a_number_is_never_an_answer(folder, world):
    "Each door says so, instead of a black picture or a first word."
    b = load_backbone(folder, torch.float32, "cpu")
    im = world.photo(seed=3).image
    ctx = [[b.text("a dog")]]
    b.model.language_model.model.norm.weight.data.fill_(torch.nan)
    b.model.language_model.model.norm_moe_gen.weight.data.fill_(torch.inf)
    for ask in (
        lambda: b.generate_text(ctx, max_new_tokens=2),
        lambda: b.probability(ctx, ["y", "n"]),
        lambda: b.generate_images(ctx, [0], QUICK),
    ):
        with pytest.raises(FloatingPointError, match="not finite.*float32"):
            ask()
    b.model.vit_model.vision_model.post_layernorm.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="ViT"):
        b.seen(im)
    b.ae.net.encoder.conv_out.bias.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="latents"):
        b.clean(im)


def test_the_autoencoder_of_float16_computes_in_float32(folder, exact, world):
    half = load_backbone(folder, torch.float16, "cpu")
    im = world.photo(seed=3).image
    z, want = (b.clean(im, torch.Generator().manual_seed(0))[0].x for b in (half, exact))
    assert {p.dtype for p in half.ae.parameters()} == {torch.float32} and half.dtype == z.dtype == torch.float16
    assert float((z.float() - want).norm() / want.norm()) < 5e-3
    assert half.generate_images([[half.text("a dog")]], [0], QUICK)[0].size == (128, 128)


def test_drawing_from_text_has_two_branches(exact):
    "The third would be the first again."
    rows = []
    hook = exact.model.llm2vae.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    try:
        exact.generate_images([[exact.text("a dog")]], [0], replace(exact.presets["draw"], num_timesteps=3))
    finally:
        hook.remove()
    assert max(rows) == 2
