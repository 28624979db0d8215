"The official layout from a user's side: one entrance, verbatim text, fewer bits, concepts on it, memory that fits."

import importlib.util
import json
import shutil
from dataclasses import replace

import bitsandbytes
import huggingface_hub
import numpy as np
import pytest
import torch
from helpers import QUICK, SHORT, unchanged, weights
from PIL import Image
from safetensors.torch import load_file, save_file

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn
from omnipersona.concept.learner import Learner
from omnipersona.concept.losses import task_losses
from omnipersona.concept.persona import Persona
from omnipersona.concept.sampling import step_samples
from omnipersona.data import ConceptData
from omnipersona.model.bagel import random_checkpoint
from omnipersona.model.loading import load_backbone
from omnipersona.model.mot import image_loss
from omnipersona.model.preprocessing import Pixels
from omnipersona.model.segments import LatentImage, pack
from omnipersona.pictures import to_tensor
from omnipersona.tensor_files import TensorFiles

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


def seeded(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def segments(exact, world):
    "A source picture, an instruction and a noised target, the same for every format."
    source = exact.encode_source(world.photo(seed=1).image)[0]
    z = source[0].x
    return [*source, exact.text("make it red"), LatentImage(z, source[0].grid, 0.6, seeded(z.shape))]


def read(bb, segments):
    with torch.no_grad():
        batch = pack([segments], bb.model.special, bb.model.config.latent_channels)
        return bb.model(batch.to("cpu", bb.dtype))


def relative(a, b):
    "How far `a` is from `b`, in lengths of `b`."
    return float((a.float() - b.float()).norm() / b.float().norm())


def fixed_batch(learner, seed):
    return step_samples(learner.encoded, SHORT.samples, torch.Generator().manual_seed(seed))


def mean_losses(bb, learner, batch):
    return sum(loss / n for loss, n in task_losses(bb, learner.concept, batch).values())


def learn_batch(bb, learner, batch, steps=12):
    "(loss before, loss after) of some steps on one batch."
    before = float(mean_losses(bb, learner, batch).detach())
    for _ in range(steps):
        learner.optimizer.param_groups[0]["lr"] = 0.02
        learner.optimizer.zero_grad()
        mean_losses(bb, learner, batch).backward()
        learner.optimizer.step()
    return before, float(mean_losses(bb, learner, batch).detach())


# ---- one entrance -------------------------------------------------------------------------------------------------
def test_one_entrance(folder, exact, monkeypatch):
    "A folder, the name of the official checkpoint and a hub id are the same thing; only what is needed is downloaded."
    asked = []

    def download(repo, allow_patterns, **chosen):
        asked.append((repo, allow_patterns))
        return str(folder)

    def offline(*a, **k):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "HfApi", offline)  # without a network, what is in the cache is taken
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for name in ("bagel-7b-mot", "somebody/their-bagel"):
        assert load_backbone(name, torch.float32, "cpu").fingerprint == exact.fingerprint
    assert [r for r, _ in asked] == ["ByteDance-Seed/BAGEL-7B-MoT", "somebody/their-bagel"]
    assert "ema.safetensors" in asked[0][1] and not any(p in asked[0][1] for p in ("*", "*.safetensors"))


def test_the_hub_says_no(monkeypatch):
    def refuse(*a, **k):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(OmniError, match="somebody/nothing.*hub does not give it.*no route"):
        load_backbone("somebody/nothing")
    with pytest.raises(OmniError, match="no such folder"):
        load_backbone("nowhere")


NEEDED = "llm_config.json vit_config.json config.json ema.safetensors ae.safetensors tokenizer.json".split()


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_file_is_named(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "half")
    (copy / name).unlink()
    with pytest.raises(OmniError, match="tokenizer" if name == "tokenizer.json" else name):
        load_backbone(copy)


# file, what becomes of its tensors, what is said
DAMAGED = [
    ("ema.safetensors", lambda t: {k: v for k, v in t.items() if k != "llm2vae.bias"}, "missing: llm2vae.bias"),
    ("ema.safetensors", lambda t: t | {"more": torch.zeros(1)}, "unexpected: more"),
    (
        "ema.safetensors",
        lambda t: t | {"llm2vae.bias": torch.zeros(3)},
        r"of other .*llm2vae.bias \[3\] for \[16\]",
    ),
    ("ae.safetensors", lambda t: {k: v for k, v in t.items() if "mid.attn_1.q.w" not in k}, r"missing: .*attn_1.q.w"),
    ("ae.safetensors", lambda t: t | {"decoder.more": torch.zeros(1)}, "unexpected: decoder.more"),
    (
        "ae.safetensors",
        lambda t: t | {"decoder.conv_in.bias": torch.zeros(3)},
        r"of other .*bias \[3\] for \[32\]",
    ),
]


@pytest.mark.parametrize("name,change,said", DAMAGED)
def test_tensors_are_checked_before_any_is_read(folder, tmp_path, monkeypatch, name, change, said):
    "Missing, unexpected and misshapen ones, of the model and of the autoencoder, in the official names."
    import safetensors
    from diffusers import AutoencoderKL

    copy = shutil.copytree(folder, tmp_path / "other")
    save_file({k: v.contiguous() for k, v in change(load_file(copy / name)).items()}, copy / name)

    def refuse(*a, **k):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(safetensors, "safe_open", refuse)
    monkeypatch.setattr(TensorFiles, "read", refuse)
    monkeypatch.setattr(AutoencoderKL, "from_single_file", refuse)
    with pytest.raises(OmniError, match=f"{name}: {said}.*do not belong together"):
        load_backbone(copy, torch.float32, "cpu")


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors"])
def test_a_download_that_stopped_is_noticed(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "half")
    whole = (copy / name).read_bytes()
    for keep, said in ((len(whole) - 1, "truncated"), (5, "no whole safetensors table"), (0, "no whole")):
        (copy / name).write_bytes(whole[:keep])
        with pytest.raises(OmniError, match=f"{name}.*{said}.*download it again"):
            load_backbone(copy)


def test_what_cannot_be(folder, monkeypatch):
    with pytest.raises(OmniError, match="quant='fp3'.*nf4, int8"):
        load_backbone(folder, quant="fp3")
    for size in (100, 4096):
        with pytest.raises(OmniError, match=f"image_size={size}.*128"):
            load_backbone(folder, image_size=size)
    with pytest.raises(OmniError, match="quant='nf4'"):
        load_backbone("tiny", quant="nf4")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else found(n, *a))
    with pytest.raises(OmniError, match=r"omnipersona\[bagel\]"):
        load_backbone(folder, quant="nf4")


# ---- texts and pictures go in as they are -------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["May 3rd, 2019", "3.5 kg", "HELLO, WORLD!", "What's Maeve's toy?", "Ein Ärger: 5 €"])
def test_text_reaches_bagel_verbatim(exact, text):
    "Nothing is lower-cased or taken apart: what is read back is what was typed."
    assert exact.tok.decode(exact.text(text).ids) == text


def test_facts_are_taught_verbatim(exact, world):
    data = ConceptData([world.photo(seed=1).image], facts=dict(birthday="May 3rd, 2019", weight="3.5 kg"))
    learner = Learner(exact, data, "maeve", recipe=SHORT)
    taught = [exact.tok.decode(answer) for _, answer in learner.encoded.facts]
    assert taught == ["May 3rd, 2019", "3.5 kg"]


@pytest.mark.parametrize("which", ["bb", "exact"])
def test_one_type_of_pixels(request, world, which):
    "Both backbones prepare a picture in the same way; what was prepared is not prepared again."
    backbone = request.getfixturevalue(which)
    im = world.photo(seed=1).image
    pixels = backbone.preprocess([im, im.resize((96, 64))])
    assert all(type(p) is Pixels and p.vae.ndim == p.vit.ndim == 3 for p in pixels)
    assert all(p.vae.abs().max() <= 1 and p.vit.dtype == backbone.dtype for p in pixels)
    assert backbone.preprocess(pixels)[0] is pixels[0] and len(backbone.preprocess(im)) == 1
    again = backbone.encode_vit(pixels), backbone.encode_vit([im, im.resize((96, 64))])
    assert all(torch.equal(a.features, b.features) for a, b in zip(*again))


@pytest.mark.parametrize("wrong", [np.zeros(40, np.uint8), torch.zeros(4, 5, 40, 40), 7, None, [None]])
def test_what_is_no_picture_is_refused(exact, wrong):
    for encode in (exact.preprocess, exact.encode_vit, exact.encode_latents, exact.encode_source, exact.vit_grid):
        with pytest.raises(OmniError, match="picture"):
            encode(wrong)


def test_a_batch_is_several_pictures_and_never_one(exact):
    batch = torch.zeros(4, 3, 40, 40)
    assert len(exact.preprocess(batch)) == len(exact.encode_vit(batch)) == len(exact.encode_latents(batch)) == 4
    for grid in (exact.vit_grid, exact.latent_grid):  # of one picture: none of the four is dropped in silence
        with pytest.raises(OmniError, match="4 pictures"):
            grid(batch)


def test_arrays_and_tensors_are_pictures(exact, world):
    im = world.photo(seed=1).image
    want = exact.encode_vit(im)[0].features
    for picture in (np.asarray(im), to_tensor(im), world.photo(seed=1)):
        assert torch.equal(exact.encode_vit(picture)[0].features, want)


def test_the_default_dtype_does_not_matter(folder, exact, world):
    "The same seed gives the same answer, drawing and edit, whatever torch makes tensors of by default."

    def results(bb):
        source = [*bb.encode_source(world.photo(seed=1).image)[0], bb.text("make it red")]
        pictures = bb.generate_images([source, [bb.text("a dog")]], [1, 2], QUICK)
        return [p.tobytes() for p in pictures], bb.generate_text([source], max_new_tokens=3)[0][1].logprobs

    want = results(exact)
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            assert results(load_backbone(folder, torch.float32, "cpu")) == want
        finally:
            torch.set_default_dtype(torch.float32)


def test_shapes_do_not_mix(exact, world):
    "A batch of pictures of different shapes gives each what it gets alone: features, latents, answers and edits."
    shapes = [(128, 96), (80, 128), (128, 96), (64, 64)]
    images = [world.photo(seed=i).image.resize(s) for i, s in enumerate(shapes)]
    sources, alone = exact.encode_source(images), [exact.encode_source(im)[0] for im in images]
    for (latents, seen), (own_latents, own_seen) in zip(sources, alone):
        assert latents.grid == own_latents.grid and seen.grid == own_seen.grid
        assert torch.allclose(latents.x, own_latents.x, atol=1e-4)
        assert torch.allclose(seen.features, own_seen.features, atol=1e-4)
    assert [s[0].grid for s in sources] == [exact.latent_grid(im) for im in images]
    assert [s[1].grid for s in sources] == [exact.vit_grid(im) for im in images]

    words = exact.text("make it red")
    asked = [text for text, _ in exact.generate_text([[seen, words] for _, seen in sources], max_new_tokens=3)]
    assert asked == [exact.generate_text([[seen, words]], max_new_tokens=3)[0][0] for _, seen in alone]
    edits = exact.generate_images([[*s, words] for s in sources], range(4), QUICK)
    assert [e.size for e in edits] == shapes
    for i, (source, edit) in enumerate(zip(alone, edits)):
        assert nearly(edit, exact.generate_images([[*source, words]], [i], QUICK)[0])


def nearly(a, b):
    "Two pictures differ by at most one step of 255, but for single pixels: batches round differently."
    return a.size == b.size and np.quantile(np.abs(np.asarray(a, int) - np.asarray(b, int)), 0.999) <= 1


def test_an_edit_can_be_repeated(exact, world):
    "The autoencoder samples. One seed still gives the same edit twice, and in a batch with other pictures."
    first, second = (world.photo(seed=i).image for i in (1, 2))
    words = exact.text("make it red")

    def edits(images, seeds):
        return exact.generate_images([[*s, words] for s in exact.encode_source(images)], seeds, QUICK)

    once = edits(first, [7])[0]
    assert edits(first, [7])[0].tobytes() == once.tobytes()
    torch.manual_seed(123)  # torch's own generator is not used
    assert edits(first, [7])[0].tobytes() == once.tobytes()
    assert nearly(edits([second, first, second], [1, 7, 2])[1], once)
    assert edits(first, [8])[0].tobytes() != once.tobytes()
    noisy = [exact.encode_latents(first, torch.Generator().manual_seed(s))[0].x for s in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])  # unless noise is asked for


def test_image_size_bounds_the_sequence(folder, exact):
    small = load_backbone(folder, torch.float32, "cpu", image_size=64)
    im = Image.new("RGB", (300, 200))
    assert small.grid == (4, 4) and exact.grid == (8, 8)
    assert len(small.encode_latents(im)[0].x) < len(exact.encode_latents(im)[0].x)
    assert len(small.encode_vit(im)[0].features) < len(exact.encode_vit(im)[0].features)
    assert small.generate_images([[small.text("a dog")]], [0], QUICK)[0].size == (64, 64)


# ---- fewer bits ---------------------------------------------------------------------------------------------------
def test_near_float32_and_one_fingerprint(loaded, exact, segments):
    "Outputs within the stated tolerance; a concept of one format can be used in another."
    name, bb = loaded
    assert bb.fingerprint == exact.fingerprint
    if name == "float32":
        return
    want, have = read(exact, segments), read(bb, segments)
    off = relative(have.und, want.und), relative(have.gen, want.gen)
    print(name, *off)
    assert max(off) < TOLERANCE[name]


def test_bits_are_saved(folder, exact):
    four = load_backbone(folder, torch.float32, "cpu", quant="nf4")
    sizes = [sum(p.nbytes for p in b.model.language_model.model.layers.parameters()) for b in (four, exact)]
    assert sizes[0] < 0.25 * sizes[1]
    rest = {k: p for k, p in four.model.named_parameters() if ".layers." not in k}
    assert rest and all(torch.equal(p, exact.model.get_parameter(k)) for k, p in rest.items())


def test_concepts_on_it(loaded, data, tmp_path):
    "learn, save, load, ask, draw, edit, replay and two at once; of all numbers only the 33 rows change."
    name, bb = loaded
    model, ae = weights(bb.model), weights(bb.ae)
    c = learn(bb, data, "maeve", recipe=SHORT, progress=False)
    start = Learner(bb, data, "maeve", recipe=SHORT).concept.embeddings
    assert len(c.embeddings) == 33 and (c.embeddings - start).abs().amax(1).gt(0).all()
    assert unchanged(bb.model, model) and unchanged(bb.ae, ae)
    c.save_pretrained(tmp_path / "c")
    again = Concept.from_pretrained(tmp_path / "c", bb)
    assert torch.equal(again.embeddings, c.embeddings)
    bb.presets = dict(draw=QUICK, edit=QUICK)
    p = Persona(bb, [c, Concept(bb, "bo", again.embeddings.detach())])
    assert isinstance(p.ask("who is <maeve> and <bo> ?", max_new_tokens=3).text, str)
    assert p.ask("is <maeve> in the photo ?", image=data.images[0], max_new_tokens=3).seconds > 0
    drawn = p.generate("<maeve> with <bo>", seed=0, replay=True)
    assert drawn.image.size == (128, 128) and drawn.trace.request == "<maeve> with <bo>"
    assert p.edit("remove <maeve>", Image.new("RGB", (96, 64), "teal"), seed=0).image.size == (96, 64)


def test_a_fixed_batch_is_learnt(loaded, data):
    name, bb = loaded
    learner = Learner(bb, data, "maeve", recipe=SHORT)
    before, after = learn_batch(bb, learner, fixed_batch(learner, 1))
    assert after < before - 0.05


PHOTOS = dict(  # nf4 as on a GPU that has bf16
    float32=dict(dtype=torch.float32),
    bf16=dict(dtype=torch.bfloat16),
    nf4=dict(dtype=torch.bfloat16, quant="nf4"),
)


@pytest.mark.parametrize("name", PHOTOS)
def test_real_photographs(shared, folder, name):
    """Two concepts from photographs: the loss of a fixed batch falls, and both serve every request at once.

    No weight of the backbone changes by one bit."""
    bb = load_backbone(folder, device="cpu", image_size=96, **PHOTOS[name])
    model, ae = weights(bb.model), weights(bb.ae)
    made = []
    for who, kind in (("rex", "dog6"), ("pot", "teapot")):
        data = ConceptData.from_folder(shared / "photos" / kind, facts={"toy": "a red ball"})
        learner = Learner(bb, data, who, recipe=SHORT)
        before, after = learn_batch(bb, learner, fixed_batch(learner, 1))
        assert after < before - 0.05 and learner.concept.embeddings.shape == (33, 64)
        made.append(learn(bb, data, who, recipe=SHORT, progress=False))
        assert made[-1].summary["steps"] == 6
    assert unchanged(bb.model, model) and unchanged(bb.ae, ae)
    bb.presets = dict(draw=QUICK, edit=QUICK)
    p = Persona(bb, made)
    for question in ("is <rex> in the photo ?", "who is <rex> and <pot> ?"):
        assert isinstance(p.ask(question, image=data.images[0], max_new_tokens=2).text, str)
    drawn = p.generate("<rex> with <pot>", seed=0, replay=True)
    assert drawn.image.size == (96, 96) and drawn.trace is not None
    edited = p.edit("put <rex> beside it", data.images[0], seed=0).image
    rows, columns = bb.latent_grid(data.images[0])  # a photograph keeps its shape
    assert edited.size == (16 * columns, 16 * rows) and max(edited.size) == 96
    assert unchanged(bb.model, model) and unchanged(bb.ae, ae)


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
        theirs = PeftModel.from_pretrained(base, tmp_path / "c").get_input_embeddings()(ids)
    assert torch.equal(theirs, want) and not torch.equal(want, plain)


def test_nf4_is_exact_for_the_weights_it_keeps(folder, segments):
    """Outputs, and gradients of the input, are those of a float32 backbone that has the unpacked weights.

    So quantising costs digits of weights, and nothing else."""
    four, full = (load_backbone(folder, torch.float32, "cpu", quant=q) for q in ("nf4", None))
    n = 0
    for k, m in four.model.named_modules():
        if isinstance(m, bitsandbytes.nn.Linear4bit):
            unpacked = bitsandbytes.functional.dequantize_4bit(m.weight.data, m.weight.quant_state)
            full.model.get_submodule(k).weight.data.copy_(unpacked)
            n += 1
    assert n == 2 * 2 * 7, "seven linear maps in both experts of both layers"

    def outputs(bb):
        c = Concept(bb, "it", seeded((33, 64)) * 0.1)
        model = bb.model
        batch = pack([[c.prompt(), *segments]], model.special, model.config.latent_channels, c.gen_ids)
        h = model(batch, splice=c.splice)
        (image_loss(model, h, batch).sum() + h.und.square().mean()).backward()
        return h.und.detach(), h.gen.detach(), c.embeddings.grad

    for have, want in zip(outputs(four), outputs(full)):
        assert want.norm() > 0 and relative(have, want) < 1e-5


# ---- memory -------------------------------------------------------------------------------------------------------
def checkpointed(bb, data, on, run):
    "run(learner, losses) of one step, with checkpointing or without."
    bb.model.gradient_checkpointing = on
    try:
        learner = Learner(bb, data, "maeve", recipe=SHORT)
        return run(learner, lambda: task_losses(bb, learner.concept, fixed_batch(learner, 0)))
    finally:
        bb.model.gradient_checkpointing = False


def test_checkpointing_changes_nothing(bb, data):
    "The same losses and gradients, with and without."

    def gradient(learner, losses):
        found = losses()
        sum(loss for loss, _ in found.values()).backward()
        return {k: float(loss.detach()) for k, (loss, _) in found.items()}, learner.concept.embeddings.grad

    (a, g), (b, h) = (checkpointed(bb, data, on, gradient) for on in (False, True))
    assert a == b and torch.allclose(g, h, rtol=1e-5, atol=1e-7) and g.abs().sum() > 0


def test_checkpointing_keeps_less(bb, data):
    "Fewer bytes wait for the backward pass."

    def kept(learner, losses):
        sizes = []

        def count(t):
            sizes.append(t.nbytes)
            return t

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            losses()
        return sum(sizes)

    assert checkpointed(bb, data, True, kept) < 0.6 * checkpointed(bb, data, False, kept)


def test_encoders_wait_elsewhere(exact, world):
    "With `offload_encoders` they are back where they came from after every use, and give the same."
    im, moves = world.photo(seed=2).image, []

    def both():
        return exact.encode_latents(im, torch.Generator().manual_seed(0))[0].x, exact.encode_vit(im)[0].features

    before = both()
    move = type(exact.ae).to

    def moved(device):
        moves.append(str(device))
        return move(exact.ae, device)

    exact.offload_encoders = True
    try:
        exact.ae.to = moved
        after = both()
    finally:
        exact.offload_encoders = False
        del exact.ae.to
    assert moves == ["cpu", "cpu"] and all(torch.equal(a, b) for a, b in zip(before, after))


def test_float16_does_not_overflow(folder, segments):
    "Large activations, as real checkpoints have them: finite, and near float32."
    half, full = (load_backbone(folder, d, "cpu") for d in (torch.float16, torch.float32))
    for b in (half, full):
        for layer in b.model.language_model.model.layers:
            for mlp in (layer.mlp, layer.mlp_moe_gen):
                for p in mlp.parameters():
                    p.mul_(60)
    largest = []
    hook = full.model.language_model.model.layers[-1].register_forward_hook(
        lambda m, i, o: largest.append(float(o[0].abs().max()))
    )
    want, have = read(full, segments), read(half, segments)
    hook.remove()
    assert largest[0] > 65504, "the test must go beyond what float16 can hold"
    assert have.und.isfinite().all() and have.gen.isfinite().all() and relative(have.gen, want.gen) < 0.1


# ---- numbers that are none ----------------------------------------------------------------------------------------
def test_not_a_number_is_never_an_answer(folder, world):
    "Each request says so, instead of a black picture or a first word."
    b = load_backbone(folder, torch.float32, "cpu")
    im = world.photo(seed=3).image
    ctx = [[b.text("a dog")]]
    b.model.language_model.model.norm.weight.data.fill_(torch.nan)
    b.model.language_model.model.norm_moe_gen.weight.data.fill_(torch.inf)
    for request in (
        lambda: b.generate_text(ctx, max_new_tokens=2),
        lambda: b.probability(ctx, ["y", "n"]),
        lambda: b.generate_images(ctx, [0], QUICK),
    ):
        with pytest.raises(FloatingPointError, match="not finite.*float32"):
            request()
    b.model.vit_model.vision_model.post_layernorm.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="ViT"):
        b.encode_vit(im)
    b.ae.net.encoder.conv_out.bias.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="latents"):
        b.encode_latents(im)


def test_the_autoencoder_of_float16_computes_in_float32(folder, exact, world):
    half = load_backbone(folder, torch.float16, "cpu")
    im = world.photo(seed=3).image
    z, want = (b.encode_latents(im, torch.Generator().manual_seed(0))[0].x for b in (half, exact))
    assert {p.dtype for p in half.ae.parameters()} == {torch.float32} and half.dtype == z.dtype == torch.float16
    assert relative(z, want) < 5e-3
    assert half.generate_images([[half.text("a dog")]], [0], QUICK)[0].size == (128, 128)


def test_the_autoencoder_is_the_files(folder, exact):
    "diffusers reads every tensor of the official file, and none is changed on the way."
    from omnipersona.model.bagel_autoencoder import bagel_ae_state

    stored, mine = load_file(folder / "ae.safetensors"), bagel_ae_state(exact.ae.net)
    assert set(stored) == set(mine) and all(torch.equal(v, mine[k]) for k, v in stored.items())
    assert json.loads((folder / "config.json").read_text())["vae_config"]["z_channels"] == 4


def test_drawing_from_text_has_two_branches(exact):
    "The third would be the first again."
    rows = []
    hook = exact.model.llm2vae.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    try:
        exact.generate_images([[exact.text("a dog")]], [0], replace(exact.presets["draw"], num_timesteps=3))
    finally:
        hook.remove()
    assert max(rows) == 2
