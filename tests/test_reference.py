"""Our model beside BAGEL's reference implementation, number by number. `OMNIPERSONA_REFERENCE=<folder with ckpt/ and golden.*>
python -m pytest tests/test_reference.py` runs against that folder and prints a table; sizes come from its files. Relative L2 errors."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file

from omnipersona.model.bagel import load_bagel
from omnipersona.model.bagel_checkpoint import compare_keys
from omnipersona.model.bagel_config import BAGEL_7B, ImageResize, ae_shapes, empty_ae, empty_mot, mot_config
from omnipersona.model.flow import SamplingConfig, shift_time
from omnipersona.model.generate import contexts, draw, prefill, say
from omnipersona.model.mot import text_loss
from omnipersona.model.segments import LatentImage, Text, ViTImage, pack
from omnipersona.model.vision import patchify
from omnipersona.pictures import to_tensor

GIVEN = os.environ.get("OMNIPERSONA_REFERENCE")
HERE = Path(GIVEN) if GIVEN else ROOT.parent / "shared" / "bagel_reference" / "A"
if GIVEN and not (HERE / "golden.json").is_file():
    raise FileNotFoundError(f"OMNIPERSONA_REFERENCE={GIVEN}: no golden.json there")
if not (HERE / "golden.json").is_file():
    pytest.skip(
        "needs reference data: set OMNIPERSONA_REFERENCE to a folder with ckpt/ and golden.*", allow_module_level=True
    )

J = json.loads((HERE / "golden.json").read_text())
FLOAT, GRAD = 1e-5, 2e-5  # limits of relative L2 errors
TRAIN = sorted({k.split(".")[0] for k in J["tensors"] if k.startswith("train")})
SAYS = [k for k, v in J.items() if isinstance(v, dict) and "next_tokens" in v]
DRAWS = [k for k, v in J.items() if isinstance(v, dict) and "cfg_text_scale" in v]


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
        print(f"\n\n{HERE.name}: case -> worst error\n{'case':34}{'tensors':>8}  {'worst':28}{'error':>9}{'limit':>9}")
        for case in dict.fromkeys(r[0] for r in rows):
            mine = [r for r in rows if r[0] == case]
            _, name, e, lim = max(mine, key=lambda r: r[2] / r[3] if r[3] else r[2] * 1e9)
            print(f"{case:34}{len(mine):8}  {name:28}{e:9.1e}{lim:9.0e}")


class Check:
    "Compare tensors of one case; all are recorded before `done` fails."

    def __init__(self, table, case):
        self.table, self.case, self.bad = table, case, []

    def note(self, name, e, limit):
        self.table.append((self.case, name, e, limit))
        if not e <= limit:
            self.bad.append(f"{name}: {e:.2e} > {limit:.0e}")

    def close(self, name, a, b, limit=FLOAT):
        assert a.shape == b.shape, f"{self.case} {name}: {tuple(a.shape)} for {tuple(b.shape)}"
        self.note(name, float((a.detach().double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)), limit)

    def same(self, name, a, b):
        self.note(name, float((torch.as_tensor(a) != torch.as_tensor(b)).sum()) if len(a) == len(b) else np.inf, 0)

    def levels(self, name, a, b):
        self.note(
            name,
            float(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) if np.shape(a) == np.shape(b) else np.inf,
            1,
        )

    def done(self):
        assert not self.bad, f"{self.case}: {self.bad}"


@pytest.fixture
def check(table, request):
    return Check(table, request.node.name.removeprefix("test_"))


@pytest.fixture(scope="module")
def G():
    return load_file(HERE / "golden.safetensors")


@pytest.fixture(scope="module")
def ref():
    t = J["transforms"]
    return load_bagel(HERE / "ckpt", torch.float32, "cpu", (ImageResize(*t["vae"]), ImageResize(*t["vit"])))


def u8(x):
    return ((x * 0.5 + 0.5) * 255).round().int().numpy()


def picture(G, name):
    return Image.fromarray(G[f"image.{name}"].numpy())


def lay(bb, samples, start=0):
    return pack(samples, bb.model.special, bb.model.config.latent_channels, start=start)


def logical(b, row, und, gen):
    return torch.cat([und, gen], 1)[row][torch.tensor(b.packed_index[row])]  # tokens in the order of the sample


# ---- files --------------------------------------------------------------------------------------------------------
def test_keys_of_the_real_size(check):
    "The 7B model, without memory, has the official keys and shapes, no more and no less."
    found = [p for p in (HERE / "official_keys.json", HERE.parent / "official_keys.json") if p.is_file()]
    if not found:
        pytest.skip("needs official_keys.json in or beside the reference folder")
    k = json.loads(found[0].read_text())
    m, ae = empty_mot(mot_config(**BAGEL_7B)), empty_ae({})
    compare_keys(k["ema"], {n: v.shape for n, v in m.state_dict().items()}, "ema")
    compare_keys(k["ae"], ae_shapes(ae.net), "ae")
    n = k["parameter_counts"]
    check.same("keys", [len(m.state_dict()), len(ae_shapes(ae.net))], [k["n_ema_keys"], k["n_ae_keys"]])
    check.same("parameters", [sum(p.numel() for p in x.parameters()) for x in (m, ae)], [n["ema_total"], n["vae"]])
    check.done()


def test_tokenizer(check, ref):
    s, n = ref.model.special, J["new_token_ids"]
    check.same(
        "special",
        [s.bos, s.eos, s.start, s.end],
        [n["bos_token_id"], n["eos_token_id"], n["start_of_image"], n["end_of_image"]],
    )
    for k, t in J["texts"].items():
        check.same(k, ref.tok(t), J["text_ids"][k])
        assert ref.tok.decode(J["text_ids"][k]) == t
    check.done()


def test_resize(check, ref, G):
    "Sizes exactly, pixels within one step of 255."
    for k in DRAWS:
        if f"{k}.src_vae_pixels" not in G:
            continue
        im = ref.fits[0](picture(G, J[k]["source_image"]))
        check.levels(f"{k} VAE", u8(to_tensor(im)), u8(G[f"{k}.src_vae_pixels"][0]))
        check.levels(
            f"{k} ViT",
            u8(patchify(to_tensor(ref.fits[1](im))[None], ref.fits[1].stride)[0]),
            u8(G[f"{k}.src_vit_tokens"]),
        )
    for k in SAYS:
        for i, name in enumerate(J[k].get("images", [J[k]["image"]] if "image" in J[k] else [])):
            im = ref.fits[1](ref.fits[0](picture(G, name)))
            check.levels(
                f"{k} {i}",
                u8(patchify(to_tensor(im)[None], ref.fits[1].stride)[0]),
                u8(G[f"{k}.packed_vit_tokens_{i}"]),
            )
    check.done()


# ---- autoencoder --------------------------------------------------------------------------------------------------
@torch.no_grad()
def encode(ref, x, noise):
    "Autoencoder.encode with noise that is given."
    d = ref.ae.net.encode(x).latent_dist
    return ref.ae.scale * (d.mean + d.std * noise - ref.ae.shift)


@torch.no_grad()
def test_autoencoder(check, ref, G):
    x, z = G["vae.x"], G["vae.z_mean"]
    d = ref.ae.net.encode(x).latent_dist
    check.close("moments", d.parameters, G["vae.moments"])
    check.close("z_mean", encode(ref, x, 0.0), z)
    check.close("z_sample", encode(ref, x, G["vae.noise"]), G["vae.z_sample"])
    for k in ("z_mean", "z_random"):
        check.close(f"decode {k}", ref.ae.decode(G[f"vae.{k}"]), G[f"vae.decode_{k}"])
    check.close(
        "padded batch", encode(ref, G["train.padded_images"], G["train.vae_encode_noise"]), G["train.padded_latent"]
    )
    g = lambda: torch.Generator().manual_seed(0)
    check.close("own noise", ref.ae.encode(x, g()), encode(ref, x, torch.randn(z.shape, generator=g())), 1e-6)
    check.done()


# ---- training -----------------------------------------------------------------------------------------------------
def training_samples(ref, G, pre):
    "The packed samples, as segments."
    get = lambda n: G.get(f"{pre}.{n}", G[f"train.{n}"] if f"train.{n}" in G else None)
    c, T = ref.model.config, J["train"]
    words = dict(zip(get("packed_text_indexes").tolist(), get("packed_text_ids").tolist()))
    shift = float(pre.partition("shift")[2] or c.timestep_shift)
    times = shift_time(torch.sigmoid(get("packed_timesteps")), shift)
    pos = seen = tok = drawn = lat = 0
    out = []
    for plan in T["sequence_plans"]:
        out.append([])
        for part in plan:
            if part["type"] == "text":
                n = next(i for i in range(pos + 1, T["sequence_length"]) if words[i] == c.special["eos"]) - pos - 1
                out[-1].append(Text([words[pos + 1 + i] for i in range(n)], bool(part["loss"])))
            elif part["type"] == "vit_image":
                n = int(get("vit_token_seqlens")[seen])
                at = get("packed_vit_position_ids")[tok : tok + n]
                grid = (int(at.max()) // c.vit_side + 1, int((at % c.vit_side).max()) + 1)
                out[-1].append(
                    ViTImage(ref.model.vit_model(get("packed_vit_tokens")[None, tok : tok + n], grid)[0], grid)
                )
                seen += 1
                tok += n
            else:
                h, w = T["patchified_vae_latent_shapes"][drawn]
                n = h * w
                p = c.latent_patch_size
                z = patchify(get("padded_latent")[drawn : drawn + 1, :, : h * p, : w * p], p)[0]
                out[-1].append(
                    LatentImage(
                        z, (h, w), *((float(times[lat]), get("latent_noise")[lat : lat + n]) if part["loss"] else ())
                    )
                )
                drawn += 1
                lat += n
            pos += n + 2
    assert pos == T["sequence_length"]
    return out


def forward(ref, samples):
    "Everything the reference recorded of a training step, in its order; and the tensors of the loss."
    m, layers, out = ref.model, [], {}
    hooks = [l.register_forward_hook(lambda _, a, o: layers.append(o[:2])) for l in m.language_model.model.layers]
    b = lay(ref, samples)
    u, g = m.embed(b)
    h = m(b)
    for k in hooks:
        k.remove()
    for r in range(len(samples)):
        put = lambda n, t: out.setdefault(n, []).append(t)
        put("input_embeds", logical(b, r, u, g))
        put("last_hidden_state", last := logical(b, r, h.und, h.gen))
        put("logits_all", m.logits(last))
        for i, o in enumerate(layers):
            put(f"hidden_after_layer_{i}", logical(b, r, *o))
        s = torch.tensor(b.packed_index[r])
        put("packed_position_ids", b.position[r][s])
        out.setdefault("masks", []).append(b.mask[r][s][:, s])
        said, made = b.labels[r] >= 0, b.mse_weight[r] > 0
        put("logits_ce", l := m.logits(h.und[r][said]))
        put("packed_label_ids", y := b.labels[r][said])
        put("ce", torch.nn.functional.cross_entropy(l, y, reduction="none"))
        put("ce_loss_weights", b.ce_weight[r][said])
        put("mse_pred", v := m.velocity(h.gen[r][made]))
        put("mse", (v - b.target[r][made]) ** 2)
    return {k: v if k == "masks" else torch.cat(v) for k, v in out.items()}, text_loss(m, h, b)


@pytest.mark.parametrize("together", [False, True], ids=["alone", "batch"])
@pytest.mark.parametrize("pre", TRAIN)
@torch.no_grad()
def test_training(check, ref, G, pre, together):
    samples = training_samples(ref, G, pre)
    runs = [forward(ref, s)[0] for s in ([samples] if together else [[s] for s in samples])]
    for k in runs[0]:
        if k == "masks":
            [
                check.same(f"mask {i}", m.flatten(), G[f"train.attend_mask_{i}"].flatten())
                for i, m in enumerate(m for r in runs for m in r[k])
            ]
        elif f"{pre}.{k}" not in G:
            continue
        elif G[f"{pre}.{k}"].is_floating_point():
            check.close(k, torch.cat([r[k] for r in runs]), G[f"{pre}.{k}"])
        else:
            check.same(k, torch.cat([r[k] for r in runs]), G[f"{pre}.{k}"])
    if pre == "train":
        check.close(
            "vit_output",
            torch.cat([s.features for x in samples for s in x if isinstance(s, ViTImage)]),
            G["train.vit_output"],
        )
    check.done()


def test_gradients(check, ref, G):
    "Of the mean cross-entropy plus the mean squared error, over all weights."
    want, p = J["train"]["loss"], dict(ref.model.named_parameters())
    ref.model.requires_grad_(True)
    [p[k].requires_grad_(False) for k in J["grad_none"]]
    try:
        r, ce = forward(ref, training_samples(ref, G, "train"))
        mse = r["mse"].mean()
        (ce + mse).backward()
        for k, v in dict(ce=ce, mse=mse, total=ce + mse).items():
            check.note(f"loss {k}", abs(v.item() / want[k] - 1), FLOAT)
        emb = "language_model.model.embed_tokens.weight"
        rows = G["grad.embed_rows_ids"]
        check.close("embed_rows", p[emb].grad[rows], G["grad.embed_rows"], GRAD)
        check.same("embed_rows_ids", p[emb].grad.abs().sum(1).nonzero()[:, 0], rows)
        for k in G:
            if k.startswith("grad.") and k[5:] in p:
                check.close(k[5:][-28:], p[k[5:]].grad, G[k], GRAD)
        N, top = J["grad_norms"], max(J["grad_norms"].values())
        assert set(N) == {k for k, v in p.items() if v.grad is not None}
        nil = {
            k for k in N if k.startswith("vit_model.") and k.endswith("k_proj.bias")
        }  # softmax does not feel them: 0, but for rounding
        check.note("norms of all gradients", max(abs(float(p[k].grad.norm()) / N[k] - 1) for k in set(N) - nil), GRAD)
        check.note("gradients that are 0", max(float(p[k].grad.norm()) / top for k in nil), GRAD)
    finally:
        ref.model.zero_grad(set_to_none=True)
        ref.model.requires_grad_(False)
    check.done()


# ---- answers ------------------------------------------------------------------------------------------------------
@torch.no_grad()
def seen_of(ref, patches, at):
    side = ref.model.config.vit_side
    grid = (int(at.max()) // side + 1, int((at % side).max()) + 1)
    return ViTImage(ref.model.vit_model(patches[None], grid)[0], grid)


@pytest.mark.parametrize("case", SAYS)
@torch.no_grad()
def test_answer(check, ref, G, case):
    "Greedy ids exactly, word by word; logits also when all words are read at once."
    o, m = J[case], ref.model
    n = sum(k.startswith(f"{case}.packed_vit_tokens_") for k in G)
    segs = [
        seen_of(ref, G[f"{case}.packed_vit_tokens_{i}"], G[f"{case}.packed_vit_position_ids_{i}"]) for i in range(n)
    ] + [ref.text(o.get("question", o.get("prompt")))]
    cache = prefill(m, [segs])
    eos = m.config.special["eos"]
    try:
        m.config.special["eos"] = o["end_token_id"]
        a = say(m, cache, o["max_length"])[0]
    finally:
        m.config.special["eos"] = eos
    ids = o["next_tokens"][:-1] if o["next_tokens"][-1] == o["end_token_id"] else o["next_tokens"]
    check.same("ids", a.ids, ids)
    tokens, logits = G[f"{case}.tokens"], G[f"{case}.logits"]
    check.same("tokens", [m.special.bos, *a.ids][: len(tokens)], tokens)
    words = logits.clone()
    words[:, m.config.spare :] = -torch.inf  # ours never says a spare row; the reference would fail to decode one
    check.close("logprobs", torch.tensor(a.logprobs), words.log_softmax(-1).max(-1).values[: len(a.ids)])
    check.close(
        "logits",
        m.logits(m(lay(ref, [[Text(tokens.tolist(), wrap=False)]], cache.position.tolist()), cache).und[0]),
        logits,
    )
    assert ref.tok.decode(tokens).split("<|im_end|>")[0].split("<|im_start|>")[1] == o["text"]
    check.done()


# ---- drawing and editing ------------------------------------------------------------------------------------------
def drawing(ref, G, case, check):
    "The segments of a drawing or an edit."
    if f"{case}.src_latent" not in G:
        return [ref.text(J[case]["prompt"])]
    z = encode(ref, G[f"{case}.src_vae_pixels"], G[f"{case}.src_vae_noise"])
    check.close("src_latent", z, G[f"{case}.src_latent"])
    return [
        ref.latent(z),
        seen_of(ref, G[f"{case}.src_vit_tokens"], G[f"{case}.src_vit_position_ids"]),
        ref.text(J[case]["instruction"]),
    ]


def check_branch(check, ref, G, case, name, segs, frame):
    "The cache of one context of guidance, and where the picture stands behind it."
    b = J[case]["branches"][name]
    cache = prefill(ref.model, [segs])
    key = f"{case}.{name}"
    check.same(f"{name} length, position", [len(cache), int(cache.position[0])], [b["kv_len"], b["rope_position"]])
    after = lay(ref, [[frame]], cache.position.tolist())
    check.same(f"{name} positions", after.position[0], G[f"{key}.position_ids"])
    order = torch.tensor(lay(ref, [segs]).packed_index[0]) if segs else None
    for k in (k for k in G if k.startswith(f"{key}.k_layer") or k.startswith(f"{key}.v_layer")):
        i = int(k.rpartition("layer")[2])
        kept = (cache.keys if ".k_layer" in k else cache.values)[i][0]
        check.close(k[len(case) + 1 :], kept[:, order].transpose(0, 1), G[k])
    return cache


@pytest.mark.parametrize("case", DRAWS)
@torch.no_grad()
def test_picture(check, ref, G, case):
    "The caches of all three contexts, every step of the walk under guidance, and the picture."
    o, c = J[case], ref.model.config
    p = c.latent_downsample * c.latent_patch_size
    grid = (o["image_shape"][0] // p, o["image_shape"][1] // p)
    g = SamplingConfig(
        o["num_timesteps"],
        o["timestep_shift"],
        o["cfg_text_scale"],
        o["cfg_img_scale"],
        tuple(o["cfg_interval"]),
        o["cfg_renorm_type"],
        o["cfg_renorm_min"],
    )
    segs, noise, steps = drawing(ref, G, case, check), G[f"{case}.init_noise"], []
    caches = [
        check_branch(check, ref, G, case, n, s, LatentImage(noise, grid, 1.0))
        for n, s in zip(("cond", "cfg_text", "cfg_img"), contexts(segs))
    ]
    walk = lambda **kw: draw(
        ref.model,
        [segs],
        grid,
        g,
        noise[None],
        callback=lambda i, t, x, v: steps.append((torch.tensor(t), x[0].clone(), v[0].clone())),
        **kw,
    )
    x = walk()
    mine = [torch.stack(s) for s in zip(*steps)]
    for n, a in zip(("t_steps", "x_steps", "v_steps"), mine):
        check.close(n, a, G[f"{case}.{n}"])
    check.close("latent", x[0], G[f"{case}.latent"])
    check.levels("image_uint8", ref.decode_latents(x, grid)[0], G[f"{case}.image_uint8"])
    if g.text > 1:
        check.close("from caches", walk(caches=caches[: 3 if g.image > 1 else 2])[0], G[f"{case}.latent"])
    check.done()
