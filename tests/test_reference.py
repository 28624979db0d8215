"""Our model beside BAGEL's reference implementation, number by number; relative L2 errors.

The small reference in tests/bagel_golden runs everywhere. `../shared/bagel_reference/A`, which is larger and has an
autoencoder, runs where it is at hand. `OMNIPERSONA_REFERENCE=<folder with ckpt/ and golden.*> python -m pytest
tests/test_reference.py` runs against that folder instead. Sizes come from the folder's files; a table is printed."""

import json
import os
import shutil
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file

from omnipersona.model.bagel import load_bagel, random_checkpoint
from omnipersona.model.bagel_autoencoder import ae_shapes, empty_ae
from omnipersona.model.bagel_checkpoint import compare_keys
from omnipersona.model.bagel_config import BAGEL_7B, empty_mot, mot_config
from omnipersona.model.flow import SamplingConfig, shift_time
from omnipersona.model.generate import contexts, generate_text, prefill, sample_latents
from omnipersona.model.mot import text_loss
from omnipersona.model.segments import LatentImage, Text, ViTImage, pack
from omnipersona.model.vision import ImageResize, patchify
from omnipersona.pictures import to_tensor

FLOAT, GRAD = 1e-5, 2e-5  # limits of relative L2 errors


class Reference:
    "One folder of reference data: a checkpoint, and what the reference implementation computed from it."

    def __init__(self, folder):
        self.folder = Path(folder)
        self.about = json.loads((self.folder / "golden.json").read_text(encoding="utf-8"))
        entries = {k: v for k, v in self.about.items() if isinstance(v, dict)}
        self.answers = [k for k, v in entries.items() if "next_tokens" in v]
        self.drawings = [k for k, v in entries.items() if "cfg_text_scale" in v]
        self.batches = sorted({k.split(".")[0] for k in self.tensors if k.startswith("train")})

    @cached_property
    def tensors(self):
        "By name. Pixels that are stored as steps of 255 become the numbers that the reference made of them."
        found = load_file(self.folder / "golden.safetensors")
        found |= {k: found[same] for k, same in self.about.get("same", {}).items()}  # what is equal is stored once
        return {k: as_numbers(v) if "pixels" in k or "vit_tokens" in k else v for k, v in found.items()}

    @cached_property
    def backbone(self):
        t = self.about["transforms"]
        resizes = ImageResize(*t["vae"]), ImageResize(*t["vit"])
        checkpoint = self.folder / "ckpt"
        if (checkpoint / "ae.safetensors").is_file():
            return load_bagel(checkpoint, torch.float32, "cpu", resizes)
        with (
            tempfile.TemporaryDirectory() as d
        ):  # an autoencoder that is not used takes the place of the one not shipped
            configs = [json.loads((checkpoint / f"{f}config.json").read_text()) for f in ("llm_", "vit_", "")]
            random_checkpoint(d, sizes=dict(zip(("llm", "vit", "outer"), configs)))
            Path(d, "tokenizer.json").unlink()
            shutil.copytree(checkpoint, d, dirs_exist_ok=True)
            return load_bagel(d, torch.float32, "cpu", resizes)

    def picture(self, name):
        return Image.fromarray(self.tensors[f"image.{name}"].numpy())

    def pack(self, samples, start=0):
        model = self.backbone.model
        return pack(samples, model.special, model.config.latent_channels, start=start)

    def vit_image(self, patches, at):
        "Patches, and their places in the table of positions, as a segment."
        side = self.backbone.model.config.vit_side
        grid = (int(at.max()) // side + 1, int((at % side).max()) + 1)
        return ViTImage(self.backbone.model.vit_model(patches[None], grid)[0], grid)


def as_numbers(x):
    return (x.float() / 255 - 0.5) / 0.5 if x.dtype == torch.uint8 else x


def folders():
    "Where reference data is."
    given = os.environ.get("OMNIPERSONA_REFERENCE")
    if given and not Path(given, "golden.json").is_file():
        raise FileNotFoundError(f"OMNIPERSONA_REFERENCE={given}: no golden.json there")
    places = [Path(given)] if given else [ROOT / "tests" / "bagel_golden", ROOT.parent / "shared/bagel_reference/A"]
    return [p for p in places if (p / "golden.json").is_file()]


REFERENCES = [Reference(f) for f in folders()]


def each(cases):
    "Parametrise a test by (reference, case), for the cases of every reference."
    found = [pytest.param(r, c, id=f"{r.folder.name}-{c}") for r in REFERENCES for c in cases(r)]
    return pytest.mark.parametrize("ref,case", found)


each_reference = pytest.mark.parametrize("ref", REFERENCES, ids=[r.folder.name for r in REFERENCES])


def those_with(tensor):
    "Parametrise a test by the references that hold a tensor."
    found = [r for r in REFERENCES if tensor in r.tensors]
    return pytest.mark.parametrize("ref", found, ids=[r.folder.name for r in found])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def table(request):
    "Collects (case, tensor, error, limit); prints the worst of every case at the end."
    rows = []
    yield rows
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\ncase -> worst error\n{'case':44}{'tensors':>8}  {'worst':28}{'error':>9}{'limit':>9}")
        for case in dict.fromkeys(r[0] for r in rows):
            mine = [r for r in rows if r[0] == case]
            _, name, e, lim = max(mine, key=lambda r: r[2] / r[3] if r[3] else r[2] * 1e9)
            print(f"{case:44}{len(mine):8}  {name:28}{e:9.1e}{lim:9.0e}")


class Check:
    "Compare tensors of one case; all are recorded before `done` fails."

    def __init__(self, table, case):
        self.table, self.case, self.bad = table, case, []

    def note(self, name, e, limit):
        self.table.append((self.case, name, e, limit))
        if not e <= limit:
            self.bad.append(f"{name}: {e:.2e} > {limit:.0e}")

    def close(self, name, a, b, limit=FLOAT):
        "Relative L2 error of real numbers."
        assert a.shape == b.shape, f"{self.case} {name}: {tuple(a.shape)} for {tuple(b.shape)}"
        self.note(name, float((a.detach().double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)), limit)

    def same(self, name, a, b):
        "Whole numbers, exactly."
        self.note(name, float((torch.as_tensor(a) != torch.as_tensor(b)).sum()) if len(a) == len(b) else np.inf, 0)

    def levels(self, name, a, b):
        "Pixels, within one step of 255."
        a, b = np.asarray(a, int), np.asarray(b, int)
        self.note(name, float(np.abs(a - b).max()) if a.shape == b.shape else np.inf, 1)

    def done(self):
        assert not self.bad, f"{self.case}: {self.bad}"


@pytest.fixture
def check(table, request):
    return Check(table, request.node.name.removeprefix("test_"))


def steps_of_255(x):
    return ((x * 0.5 + 0.5) * 255).round().int().numpy()


def logical(b, row, und, gen):
    "Tokens in the order of the sample."
    return torch.cat([und, gen], 1)[row][torch.tensor(b.packed_index[row])]


def test_a_reference_ships():
    "The claim of parity is tested wherever the tests are."
    assert os.environ.get("OMNIPERSONA_REFERENCE") or (ROOT / "tests" / "bagel_golden" / "golden.json").is_file()
    assert REFERENCES


# ---- files --------------------------------------------------------------------------------------------------------
def test_keys_of_the_real_size(check):
    "The 7B model, without memory, has the official keys and shapes, no more and no less."
    places = [p / "official_keys.json" for r in REFERENCES for p in (r.folder, r.folder.parent)]
    found = [p for p in places if p.is_file()]
    if not found:
        pytest.skip("needs official_keys.json in or beside a reference folder")
    k = json.loads(found[0].read_text())
    m, ae = empty_mot(mot_config(**BAGEL_7B)), empty_ae({})
    compare_keys(k["ema"], {n: v.shape for n, v in m.state_dict().items()}, "ema")
    compare_keys(k["ae"], ae_shapes(ae.net), "ae")
    n = k["parameter_counts"]
    check.same("keys", [len(m.state_dict()), len(ae_shapes(ae.net))], [k["n_ema_keys"], k["n_ae_keys"]])
    check.same("parameters", [sum(p.numel() for p in x.parameters()) for x in (m, ae)], [n["ema_total"], n["vae"]])
    check.done()


@each_reference
def test_tokenizer(check, ref):
    s, n, bb = ref.backbone.model.special, ref.about["new_token_ids"], ref.backbone
    theirs = [n["bos_token_id"], n["eos_token_id"], n["start_of_image"], n["end_of_image"]]
    check.same("special", [s.bos, s.eos, s.start, s.end], theirs)
    for k, t in ref.about["texts"].items():
        check.same(k, bb.tok(t), ref.about["text_ids"][k])
        assert bb.tok.decode(ref.about["text_ids"][k]) == t
    check.done()


@each_reference
def test_resize(check, ref):
    "Sizes exactly, pixels within one step of 255."
    G, vae, vit = ref.tensors, ref.backbone.vae_resize, ref.backbone.vit_resize

    def patches(im):
        return steps_of_255(patchify(to_tensor(vit(vae(im)))[None], vit.stride)[0])

    n = 0
    for k in ref.drawings:
        if f"{k}.src_vit_tokens" not in G:
            continue
        im = ref.picture(ref.about[k]["source_image"])
        if f"{k}.src_vae_pixels" in G:
            check.levels(f"{k} VAE", steps_of_255(to_tensor(vae(im))), steps_of_255(G[f"{k}.src_vae_pixels"][0]))
        check.levels(f"{k} ViT", patches(im), steps_of_255(G[f"{k}.src_vit_tokens"]))
        n += 1
    for k in ref.answers:
        o = ref.about[k]
        for i, name in enumerate(o.get("images", [o["image"]] if "image" in o else [])):
            check.levels(f"{k} {i}", patches(ref.picture(name)), steps_of_255(G[f"{k}.packed_vit_tokens_{i}"]))
            n += 1
    assert n
    check.done()


# ---- autoencoder --------------------------------------------------------------------------------------------------
@torch.no_grad()
def encode(bb, x, noise):
    "Autoencoder.encode with noise that is given."
    d = bb.ae.net.encode(x).latent_dist
    return bb.ae.scale * (d.mean + d.std * noise - bb.ae.shift)


@those_with("vae.x")
@torch.no_grad()
def test_autoencoder(check, ref):
    G, bb = ref.tensors, ref.backbone
    x, z = G["vae.x"], G["vae.z_mean"]
    check.close("moments", bb.ae.net.encode(x).latent_dist.parameters, G["vae.moments"])
    check.close("z_mean", encode(bb, x, 0.0), z)
    check.close("z_sample", encode(bb, x, G["vae.noise"]), G["vae.z_sample"])
    for k in ("z_mean", "z_random"):
        check.close(f"decode {k}", bb.ae.decode(G[f"vae.{k}"]), G[f"vae.decode_{k}"])
    padded = encode(bb, G["train.padded_images"], G["train.vae_encode_noise"])
    check.close("padded batch", padded, G["train.padded_latent"])
    own = bb.ae.encode(x, torch.Generator().manual_seed(0))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    check.close("own noise", own, encode(bb, x, noise), 1e-6)
    check.done()


# ---- training -----------------------------------------------------------------------------------------------------
class Training:
    "The packed samples of a training batch of the reference, as segments."

    def __init__(self, ref, pre):
        self.ref, self.pre = ref, pre
        c = ref.backbone.model.config
        self.config, self.plan = c, ref.about["train"]
        self.words = dict(zip(self.get("packed_text_indexes").tolist(), self.get("packed_text_ids").tolist()))
        shift = float(pre.partition("shift")[2] or c.timestep_shift)
        self.times = shift_time(torch.sigmoid(self.get("packed_timesteps")), shift)
        self.at = 0  # place in the packed sequence
        self.vit_images = self.vit_tokens = self.latent_images = self.latent_tokens = 0  # how many were taken

    def get(self, name):
        G = self.ref.tensors
        return G.get(f"{self.pre}.{name}", G.get(f"train.{name}"))

    def samples(self):
        kinds = dict(text=self.text, vit_image=self.vit_image, vae_image=self.latent_image)
        out = []
        for parts in self.plan["sequence_plans"]:
            out.append([])
            for part in parts:
                segment, length = kinds[part["type"]](part["loss"])
                out[-1].append(segment)
                self.at += length + 2
        assert self.at == self.plan["sequence_length"]
        return out

    def text(self, loss):
        after = range(self.at + 1, self.plan["sequence_length"])
        n = next(i for i in after if self.words[i] == self.config.special["eos"]) - self.at - 1
        return Text([self.words[self.at + 1 + i] for i in range(n)], bool(loss)), n

    def vit_image(self, loss):
        n = int(self.get("vit_token_seqlens")[self.vit_images])
        here = slice(self.vit_tokens, self.vit_tokens + n)
        self.vit_images, self.vit_tokens = self.vit_images + 1, self.vit_tokens + n
        return self.ref.vit_image(self.get("packed_vit_tokens")[here], self.get("packed_vit_position_ids")[here]), n

    def latent_image(self, loss):
        h, w = self.plan["patchified_vae_latent_shapes"][self.latent_images]
        i, n, p = self.latent_tokens, h * w, self.config.latent_patch_size
        latents = self.get("padded_latent")[self.latent_images]
        z = patchify(latents[None, :, : h * p, : w * p], p)[0]
        self.latent_images, self.latent_tokens = self.latent_images + 1, i + n
        noised = (float(self.times[i]), self.get("latent_noise")[i : i + n]) if loss else ()
        return LatentImage(z, (h, w), *noised), n


def forward(ref, samples):
    "Everything the reference recorded of a training step, in its order; and the tensors of the loss."
    m, layers, out = ref.backbone.model, [], {}
    hooks = [x.register_forward_hook(lambda _, a, o: layers.append(o[:2])) for x in m.language_model.model.layers]
    b = ref.pack(samples)
    u, g = m.embed(b)
    h = m(b)
    for hook in hooks:
        hook.remove()

    def put(name, value):
        out.setdefault(name, []).append(value)

    for r in range(len(samples)):
        last, order = logical(b, r, h.und, h.gen), torch.tensor(b.packed_index[r])
        put("input_embeds", logical(b, r, u, g))
        put("last_hidden_state", last)
        put("logits_all", m.logits(last))
        for i, o in enumerate(layers):
            put(f"hidden_after_layer_{i}", logical(b, r, *o))
        put("packed_position_ids", b.position[r][order])
        put("masks", b.mask[r][order][:, order])
        said, made = b.labels[r] >= 0, b.mse_weight[r] > 0
        logits, labels, velocity = m.logits(h.und[r][said]), b.labels[r][said], m.velocity(h.gen[r][made])
        put("logits_ce", logits)
        put("packed_label_ids", labels)
        put("ce", torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
        put("ce_loss_weights", b.ce_weight[r][said])
        put("mse_pred", velocity)
        put("mse", (velocity - b.target[r][made]) ** 2)
    return {k: v if k == "masks" else torch.cat(v) for k, v in out.items()}, text_loss(m, h, b)


@pytest.mark.parametrize("together", [False, True], ids=["alone", "batch"])
@each(lambda r: r.batches)
@torch.no_grad()
def test_training(check, ref, case, together):
    G, samples = ref.tensors, Training(ref, case).samples()
    runs = [forward(ref, s)[0] for s in ([samples] if together else [[s] for s in samples])]
    for i, mask in enumerate(m for r in runs for m in r["masks"]):
        check.same(f"mask {i}", mask.flatten(), G[f"train.attend_mask_{i}"].flatten())
    for k in runs[0]:
        if f"{case}.{k}" not in G:
            continue
        mine = torch.cat([r[k] for r in runs])
        (check.close if mine.is_floating_point() else check.same)(k, mine, G[f"{case}.{k}"])
    if case == "train":
        features = [s.features for x in samples for s in x if isinstance(s, ViTImage)]
        check.close("vit_output", torch.cat(features), G["train.vit_output"])
    check.done()


def check_gradients(check, ref, p):
    "Of all parameters, by their norms; of those that the reference stored, value by value."
    G, norms = ref.tensors, ref.about["grad_norms"]
    if "grad.embed_rows" in G:
        embedding, rows = p["language_model.model.embed_tokens.weight"].grad, G["grad.embed_rows_ids"]
        check.close("embed_rows", embedding[rows], G["grad.embed_rows"], GRAD)
        check.same("embed_rows_ids", embedding.abs().sum(1).nonzero()[:, 0], rows)
    for k in G:
        if k.startswith("grad.") and k[5:] in p:
            check.close(k[5:][-28:], p[k[5:]].grad, G[k], GRAD)
    assert set(norms) == {k for k, v in p.items() if v.grad is not None}
    # softmax does not feel the biases of the ViT's keys: 0, but for rounding
    nil = {k for k in norms if k.startswith("vit_model.") and k.endswith("k_proj.bias")}
    felt = set(norms) - nil
    check.note("norms of all gradients", max(abs(float(p[k].grad.norm()) / norms[k] - 1) for k in felt), GRAD)
    check.note("gradients that are 0", max(float(p[k].grad.norm()) for k in nil) / max(norms.values()), GRAD)


@each_reference
def test_gradients(check, ref):
    "Of the mean cross-entropy plus the mean squared error, over all weights."
    want, model = ref.about["train"]["loss"], ref.backbone.model
    p = dict(model.named_parameters())
    model.requires_grad_(True)
    for k in ref.about["grad_none"]:
        p[k].requires_grad_(False)
    try:
        r, ce = forward(ref, Training(ref, "train").samples())
        mse = r["mse"].mean()
        (ce + mse).backward()
        for k, v in dict(ce=ce, mse=mse, total=ce + mse).items():
            check.note(f"loss {k}", abs(v.item() / want[k] - 1), FLOAT)
        check_gradients(check, ref, p)
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)
    check.done()


# ---- answers ------------------------------------------------------------------------------------------------------
def answered(model, cache, end, limit):
    "A greedy answer, where `end` is the token that ends it."
    eos = model.config.special["eos"]
    try:
        model.config.special["eos"] = end
        return generate_text(model, cache, limit)[0]
    finally:
        model.config.special["eos"] = eos


@each(lambda r: r.answers)
@torch.no_grad()
def test_answer(check, ref, case):
    "Greedy ids exactly, word by word; logits also when all words are read at once."
    G, o, bb, m = ref.tensors, ref.about[case], ref.backbone, ref.backbone.model
    n = sum(k.startswith(f"{case}.packed_vit_tokens_") for k in G)
    places = [(G[f"{case}.packed_vit_tokens_{i}"], G[f"{case}.packed_vit_position_ids_{i}"]) for i in range(n)]
    cache = prefill(m, [[*(ref.vit_image(*p) for p in places), bb.text(o.get("question", o.get("prompt")))]])
    a = answered(m, cache, o["end_token_id"], o["max_length"])
    ids = o["next_tokens"][:-1] if o["next_tokens"][-1] == o["end_token_id"] else o["next_tokens"]
    check.same("ids", a.ids, ids)
    tokens, logits = G[f"{case}.tokens"], G[f"{case}.logits"]
    check.same("tokens", [m.special.bos, *a.ids][: len(tokens)], tokens)
    words = logits.clone()
    words[:, m.config.spare :] = -torch.inf  # ours never says a spare row; the reference would fail to decode one
    check.close("logprobs", torch.tensor(a.logprobs), words.log_softmax(-1).max(-1).values[: len(a.ids)])
    at_once = ref.pack([[Text(tokens.tolist(), wrap=False)]], cache.position.tolist())
    check.close("logits", m.logits(m(at_once, cache).und[0]), logits)
    assert bb.tok.decode(tokens).split("<|im_end|>")[0].split("<|im_start|>")[1] == o["text"]
    check.done()


# ---- drawing and editing ------------------------------------------------------------------------------------------
def drawing(ref, case, check):
    "The segments of a drawing or an edit."
    G, bb, o = ref.tensors, ref.backbone, ref.about[case]
    if f"{case}.src_latent" not in G:
        return [bb.text(o["prompt"])]
    z = G[f"{case}.src_latent"]
    if f"{case}.src_vae_noise" in G:
        mine = encode(bb, G[f"{case}.src_vae_pixels"], G[f"{case}.src_vae_noise"])
        check.close("src_latent", mine, z)
        z = mine
    return [
        LatentImage.from_latents(z[0], bb.model.config.latent_patch_size),
        ref.vit_image(G[f"{case}.src_vit_tokens"], G[f"{case}.src_vit_position_ids"]),
        bb.text(o["instruction"]),
    ]


def check_branch(check, ref, case, name, segments, frame):
    "The cache of one context of guidance, and where the picture stands behind it."
    G, branch, key = ref.tensors, ref.about[case]["branches"][name], f"{case}.{name}"
    cache = prefill(ref.backbone.model, [segments])
    theirs = [branch["kv_len"], branch["rope_position"]]
    check.same(f"{name} length, position", [len(cache), int(cache.position[0])], theirs)
    after = ref.pack([[frame]], cache.position.tolist())
    check.same(f"{name} positions", after.position[0], G[f"{key}.position_ids"])
    order = torch.tensor(ref.pack([segments]).packed_index[0]) if segments else None
    for k in (k for k in G if k.startswith((f"{key}.k_layer", f"{key}.v_layer"))):
        kept = (cache.keys if ".k_layer" in k else cache.values)[int(k.rpartition("layer")[2])][0]
        check.close(k[len(case) + 1 :], kept[:, order].transpose(0, 1), G[k])
    return cache


def sampling_of(o):
    "The settings of a drawing of the reference."
    fields = "num_timesteps timestep_shift cfg_text_scale cfg_img_scale cfg_interval cfg_renorm_type cfg_renorm_min"
    return SamplingConfig(**{k: o[k] for k in fields.split()})


@each(lambda r: r.drawings)
@torch.no_grad()
def test_picture(check, ref, case):
    "The caches of all three contexts, every step of the walk under guidance, and the picture."
    G, o, bb = ref.tensors, ref.about[case], ref.backbone
    p = bb.model.config.latent_downsample * bb.model.config.latent_patch_size
    grid = (o["image_shape"][0] // p, o["image_shape"][1] // p)
    sampling, segments, noise, steps = sampling_of(o), drawing(ref, case, check), G[f"{case}.init_noise"], []
    branches = zip(("cond", "cfg_text", "cfg_img"), contexts(segments))
    caches = [check_branch(check, ref, case, n, s, LatentImage(noise, grid, 1.0)) for n, s in branches]

    def keep(i, t, x, v):
        steps.append((torch.tensor(t), x[0].clone(), v[0].clone()))

    def walk(**kw):
        return sample_latents(bb.model, [segments], grid, sampling, noise[None], callback=keep, **kw)

    x = walk()
    mine = [torch.stack(s) for s in zip(*steps)]
    for n, a in zip(("t_steps", "x_steps", "v_steps"), mine):
        check.close(n, a, G[f"{case}.{n}"])
    check.close("latent", x[0], G[f"{case}.latent"])
    if f"{case}.image_uint8" in G:
        check.levels("image_uint8", bb.decode_latents(x, grid)[0], G[f"{case}.image_uint8"])
    if sampling.cfg_text_scale > 1:
        few = caches[: 3 if sampling.cfg_img_scale > 1 else 2]
        check.close("from caches", walk(caches=few)[0], G[f"{case}.latent"])
    check.done()
