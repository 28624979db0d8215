"Will it fit? From a configuration alone, and checked against what can be counted."

from dataclasses import asdict
from types import SimpleNamespace

import counting
import pytest
import torch
from helpers import random_backbone
from torch.utils.flop_counter import FlopCounterMode

from omnipersona.basics import OmniError
from omnipersona.bench.bagel_bench import random_bagel
from omnipersona.concept.sampling import SamplesPerStep
from omnipersona.model import memory
from omnipersona.model.bagel import SMALL, random_checkpoint
from omnipersona.model.bagel_autoencoder import empty_ae
from omnipersona.model.bagel_config import BAGEL_7B, default_resizes, empty_mot, mot_config
from omnipersona.model.costs import (
    SAMPLES,
    count_weights,
    layer_flops,
    pixels_gb,
    vae_flops,
    weight_gb,
    working_gb,
    workloads,
)
from omnipersona.model.flow import BAGEL_PRESETS
from omnipersona.model.memory import GPU, GPUS, find_gpu, plan, plan_table, reported_gpu
from omnipersona.model.segments import Text, pack

BIG = mot_config(**BAGEL_7B)


def test_every_weight_is_counted_once():
    parts = count_weights(BIG, empty_ae({}))
    counted = sum(maps + rest for maps, rest in parts.values())
    assert counted == sum(p.numel() for m in (empty_mot(BIG), empty_ae({})) for p in m.parameters())
    assert weight_gb(parts, None)["understanding expert"] == pytest.approx(sum(parts["understanding expert"]) * 2 / 1e9)


def held(p):
    "Bytes of a parameter, with the scales of a quantised one."
    state = getattr(p, "quant_state", None)
    scales = (state.absmax, state.state2.absmax) if state is not None else ()
    return p.nbytes + sum(t.nbytes for t in scales if t is not None)


def test_bits_agree_with_bitsandbytes():
    "Half a byte, and the scales: as many bytes as the quantised layers really hold."
    llm = dict(
        hidden_size=512,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=1024,
        vocab_size=400,
    )
    bb = random_bagel(SMALL | dict(llm=BAGEL_7B["llm"] | llm), "nf4", torch.bfloat16, image_size=64)
    total = sum(held(p) for p in bb.model.language_model.model.layers.parameters())
    parts = weight_gb(count_weights(bb.model.config, bb.ae), "nf4")
    assert (parts["understanding expert"] + parts["generation expert"]) * 1e9 == pytest.approx(total, rel=0.01)


@pytest.mark.parametrize("new,n", [(20, 1), (33, 3)])
def test_operations_are_those_that_torch_counts(new, n):
    m = random_backbone().model
    b = pack([[Text(list(range(10, 8 + new)))]] * n, m.special, m.config.latent_channels)
    with FlopCounterMode(display=False) as counter:  # where gradients flow, attention is products that torch counts
        m(b, splice=lambda ids, embeddings: embeddings.requires_grad_())
    assert sum(layer_flops(m.config, new, new, n)) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_more_costs_more():
    "Pictures, guidance branches and kept values cost memory and operations."
    at = {s: workloads(BIG, default_resizes(BIG, s)) for s in (256, 512, 1024)}
    for job in at[256]:
        assert at[256][job].flops < at[512][job].flops < at[1024][job].flops
        assert working_gb(BIG, at[256][job]) < working_gb(BIG, at[1024][job])
    for jobs in at.values():
        assert jobs["asking"].flops < jobs["drawing"].flops < jobs["editing"].flops
    learning = at[512]["learning"]
    assert working_gb(BIG, learning, True) < 0.3 * working_gb(BIG, learning, False)


def test_guided_steps_are_those_of_the_sampler():
    "Drawing counts a branch wherever `sample_latents` would run it: the shifted times decide."
    at = workloads(BIG, default_resizes(BIG, 256))
    latents, patches, words = 16 * 16 + 2, 18 * 18 + 2, 61
    source = words + latents + patches
    contexts = dict(draw=[words, 2], edit=[source, source - 24, words])
    times = [3 * t / (1 + 2 * t) for t in (1 - i / 49 for i in range(49))]
    for preset, job in dict(draw="drawing", edit="editing").items():
        lo, hi = BAGEL_PRESETS[preset].cfg_interval
        guided = sum(lo < t <= hi for t in times) * (len(contexts[preset]) - 1)
        reading = sum(sum(layer_flops(BIG, n, n)) for n in contexts[preset])
        step = sum(layer_flops(BIG, latents, contexts[preset][0] + latents))
        assert at[job].flops == reading + (49 + guided) * step


def test_advice_is_true():
    "What is said to fit, fits; what does not, is not advised."
    p = plan("bagel-7b-mot", gpu="T4", image_size=512)
    advice = " ".join(p.advice)
    assert not p.fits["drawing"] and p.dtype == "float16"
    assert "quant='nf4', image_size=512" in advice and "int8" not in advice
    assert all(plan("bagel-7b-mot", gpu="T4", image_size=512, quant="nf4").fits.values())
    for g in ("A100-40", "A100-80", "H100"):
        assert g in p.advice[-1] and all(plan(gpu=g, image_size=512).fits.values())


def test_times_are_ranges_and_follow_the_gpu():
    table = plan_table(image_size=256, quants=("nf4",))
    assert [p.gpu for p in table] == [g for g in GPUS if g != "cpu"]
    for p in table:
        assert all(0 < lo < hi for lo, hi in p.seconds.values())
    by = {p.gpu: p.seconds["drawing"] for p in table}
    assert by["H100"][0] < by["A100-80"][0] < by["L4"][0] < by["T4"][0]


SAID = [
    ("Tesla T4", "T4"),
    ("NVIDIA A100-SXM4-40GB", "A100-40"),
    ("NVIDIA A100 80GB PCIe", "A100-80"),
    ("NVIDIA H100 80GB HBM3", "H100"),
    ("NVIDIA L4", "L4"),
    ("Tesla V100-SXM2-16GB", "V100"),
    ("Tesla P100-PCIE-16GB", "P100"),
    ("NVIDIA GeForce RTX 4090", "RTX 4090"),
    ("NVIDIA A10G", "A10G"),
    ("NVIDIA H200", "H200"),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
]


@pytest.mark.parametrize("said,means", SAID)
def test_names_as_torch_says_them(said, means):
    assert find_gpu(said) == GPUS[means]


BAD = [
    (dict(gpu="GTX 1080"), "GTX 1080.*T4, L4"),
    (dict(gpu="NVIDIA L40S"), "L40S"),
    (dict(image_size=2048), "image_size=2048.*1024"),
    (dict(image_size=500), "image_size=500.*multiple of 16"),
    (dict(quant="q2"), "quant='q2'.*nf4"),
    (dict(name="nowhere"), "nowhere"),
]


@pytest.mark.parametrize("bad,said", BAD)
def test_bad_input(bad, said):
    with pytest.raises(OmniError, match=said):
        plan(**bad)


def test_other_backbones(tmp_path):
    "The tiny one, and any folder; what a card says is escaped."
    assert all(plan("tiny", "T4").fits.values())
    p = plan(random_checkpoint(tmp_path / "<b>small"), "L4", 128)
    assert sum(p.weights.values()) < 0.01
    assert "&lt;b&gt;small" in p._repr_html_() and "<b>small" not in p._repr_html_()
    assert "<b>small" in str(p)


def test_the_autoencoders_operations_by_hand():
    "Every convolution and linear map for each place it is used at, and the attention of the middle blocks."
    side, counts = 128, []
    ae = empty_ae(dict(ch=32, ch_mult=[1, 2, 4, 4], num_res_blocks=1, z_channels=4)).to_empty(device="cpu")

    def conv(m, x, y):
        counts.append(2 * y[0].numel() * m.weight[0].numel())

    def linear(m, x, y):
        counts.append(2 * y.numel() * m.in_features)

    def attention(m, x, y):
        counts.append(4 * (x[0].shape[-1] * x[0].shape[-2]) ** 2 * x[0].shape[1])

    for m in ae.modules():
        if isinstance(m, torch.nn.Conv2d):
            m.register_forward_hook(conv)
        elif isinstance(m, torch.nn.Linear):
            m.register_forward_hook(linear)
        elif type(m).__name__ == "Attention":
            m.register_forward_hook(attention)
    picture = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        z = ae.encode(picture)
        counts.clear()
        ae.decode(z)
        decoding = sum(counts)
        ae.encode(picture)
        both = sum(counts)
    assert vae_flops(ae, side) == pytest.approx(decoding, rel=0.02)
    assert vae_flops(ae, side, True) == pytest.approx(both, rel=0.02)
    alone = workloads(BIG, default_resizes(BIG, 256))["drawing"].flops
    assert plan(image_size=256).flops["drawing"] > alone + vae_flops(empty_ae({}), 256) * 0.99


LAYERS = 4  # enough for every layer that differs: what is kept grows with each, what a layer takes does not
FORMATS = [(torch.bfloat16, None), (torch.float16, "nf4")]


@pytest.fixture(scope="module", params=FORMATS, ids=lambda f: f"{str(f[0])[6:]}-{f[1]}")
def counted(request):
    dtype, quant = request.param
    return counting.meta_backbone(dtype, quant, LAYERS), dtype == torch.float16, quant


@pytest.mark.parametrize("size", [256, 512, 1024])
@pytest.mark.parametrize("job", ["learning", "asking", "drawing", "editing"])
def test_the_planner_is_a_count(counted, job, size):
    "Bytes of live tensors, counted while the model's own code runs on the meta device at its real width."
    bb, exact, quant = counted
    work = workloads(bb.model.config, default_resizes(bb.model.config, size))[job]
    planned = working_gb(bb.model.config, work, exact=exact, quant=quant) - 2 * work.encoded / 1e9
    assert planned == pytest.approx(getattr(counting, job)(bb, size) / 1e9, rel=0.1)


@pytest.mark.parametrize("encode", [False, True])
@pytest.mark.parametrize("size", [256, 512, 1024])
def test_the_autoencoder_is_a_count(counted, size, encode):
    bb, exact, _ = counted
    assert pixels_gb(bb.ae, size**2, encode, 4 if exact else 2) * 1e9 == pytest.approx(
        counting.decoding(bb, size, encode), rel=0.05
    )


def test_decoding_is_planned():
    "The autoencoder at the end can be what needs most: here of a model that is small beside its pictures."
    p, less = (plan(gpu="T4", image_size=s, quant="nf4") for s in (1024, 256))
    assert p.needs["drawing"] >= sum(p.weights.values()) + pixels_gb(empty_ae({}), 1024**2, bytes_each=4)
    assert less.weights["autoencoder"] == 2 * plan(gpu="L4", image_size=256).weights["autoencoder"]


def test_the_free_gpu_has_room():
    "T4, nf4, float16: learning at 256 and drawing at 512 with a GB to spare."
    small, large = (plan(gpu="T4", image_size=s, quant="nf4") for s in (256, 512))
    assert small.needs["learning"] + 1 <= small.memory and large.needs["drawing"] + 1 <= large.memory


def test_the_planned_samples_are_the_learners():
    defaults = asdict(SamplesPerStep())
    assert {k: defaults[k] for k in SAMPLES} == SAMPLES
    few = plan(gpu="T4", image_size=512, quant="nf4", samples=SamplesPerStep(draw=1, edit=0, copies=1))
    assert few.needs["learning"] < plan(gpu="T4", image_size=512, quant="nf4").needs["learning"]


def test_int8_is_planned_with_what_it_keeps_and_never_advised():
    eight, four = (plan(gpu="L4", image_size=512, quant=q) for q in ("int8", "nf4"))
    more = sum(eight.weights.values()) - sum(four.weights.values())
    assert eight.needs["learning"] - four.needs["learning"] > more + 5
    for p in (plan(gpu="T4", image_size=512), plan(gpu="L4", image_size=1024)):
        assert not any("int8" in a for a in p.advice)


def driver(name, **more):
    "torch.cuda, as on a machine with this GPU."
    said = SimpleNamespace(major=8, minor=9, multi_processor_count=142, total_memory=47_800_000_000, **more)
    return SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_name=lambda i: name,
        get_device_properties=lambda i: said,
    )


def test_a_gpu_that_no_table_knows_is_asked(monkeypatch):
    "What is in this machine is planned for; what is neither there nor known is refused."
    monkeypatch.setattr(memory.torch, "cuda", driver("NVIDIA L40S", clock_rate=2_520_000))
    p = plan(gpu="NVIDIA L40S", image_size=256, quant="nf4")
    assert p.memory == 47.8 and all(p.fits.values()) and p.dtype == "bfloat16"
    with pytest.raises(OmniError, match="GTX 1080"):
        plan(gpu="GTX 1080")
    assert not reported_gpu(SimpleNamespace(major=6, minor=1, multi_processor_count=28, total_memory=11e9)).bf16
    monkeypatch.setattr(memory.torch, "cuda", driver("NVIDIA A100-SXM4-40GB"))
    assert find_gpu("NVIDIA A100-SXM4-40GB").gb == 47.8  # the driver knows better than the table
    assert plan(gpu=GPU(15.3, 65, 320, False), image_size=256, quant="nf4").memory == 15.3
