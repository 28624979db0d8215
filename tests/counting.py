"""Bytes of live tensors, counted on the meta device: the model's own code runs at its real size and takes no memory.

Attention is counted as PyTorch's memory-efficient kernel holds it, which a T4, an L4 and an A100 have, and a four-bit
map as bitsandbytes does: the whole map is unpacked for each product. What a kernel takes inside itself is missing."""

import tempfile
import weakref
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from omnipersona.concept.concept import Concept
from omnipersona.concept.losses import Recipe, group_losses, learn_in_parts, sample_tokens, task_losses
from omnipersona.concept.sampling import SamplesPerStep
from omnipersona.model import generate
from omnipersona.model.backbone import Backbone
from omnipersona.model.bagel_autoencoder import empty_ae
from omnipersona.model.bagel_config import (
    BAGEL_7B,
    bagel_tokenizer,
    default_resizes,
    empty_mot,
    mot_config,
    save_byte_tokenizer,
)
from omnipersona.model.costs import PART_TOKENS
from omnipersona.model.flow import BAGEL_PRESETS
from omnipersona.model.segments import LatentImage, Text, ViTImage

aten = torch.ops.aten
META, CPU = torch.device("meta"), torch.device("cpu")
LARGE = 2**22  # masks of so many entries are counted, and not computed
POINTWISE = {"lt", "le", "eq", "ne", "bitwise_and", "bitwise_or", "__and__", "__or__", "where"}


def without_memory(x):
    "A tensor on the meta device in place of one on the CPU; everything else as it is."
    if not isinstance(x, torch.Tensor) or x.is_meta or not x.ndim:
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=META)


def broadcast(tensors):
    "How many entries the tensors have together; 0 where they do not fit each other."
    try:
        return torch.Size(torch.broadcast_shapes(*(t.shape for t in tensors))).numel()
    except RuntimeError:
        return 0


class Peak(TorchDispatchMode):
    "`now` and `most`: bytes of the tensors that were made inside the block and live."

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = {}

    def _free(self, key):
        self.now -= self.known.pop(key)[1]

    def _note(self, t):
        storage = t.untyped_storage()
        if storage._cdata not in self.known and storage.nbytes():
            end = weakref.finalize(storage, self._free, storage._cdata)
            end.atexit = False
            self.known[storage._cdata] = end, storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        own, name = [x for x in given if x.is_meta], func._schema.name.split("::")[1]
        if own or (name in POINTWISE and broadcast(given) >= LARGE):
            args, kwargs = tree_map(without_memory, (args, kwargs))
        elif not given:  # what is made from nothing has values, unless it is a large mask
            kwargs |= (
                dict(device=META if name == "eye" and args[0] ** 2 >= LARGE else CPU) if "device" in kwargs else {}
            )
        if own and kwargs.get("device") == CPU:  # a gradient that comes back to the CPU
            out = torch.empty(own[0].shape, dtype=kwargs.get("dtype") or own[0].dtype, device=CPU)
        elif name == "embedding":
            out = torch.empty(*args[1].shape, args[0].shape[1], dtype=args[0].dtype, device=META)
        else:
            out = func(*args, **kwargs)
        old = {x.untyped_storage()._cdata for x in given}
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in old:
                self._note(t)
        return out


def efficient_attention(q, k, v, attn_mask=None, **_):
    "`scaled_dot_product_attention` as the memory-efficient kernel does it: a mask becomes numbers, 16 in a row."
    bias = None
    if attn_mask is not None:
        width = -(-attn_mask.shape[-1] // 16) * 16
        numbers = torch.zeros(*attn_mask.shape[:-1], width, dtype=q.dtype, device=META)
        bias = numbers[..., : attn_mask.shape[-1]].expand(*q.shape[:3], k.shape[2])
    return aten._scaled_dot_product_efficient_attention(q, k, v, bias, torch.is_grad_enabled())[0]


@contextmanager
def counting(grad=False):
    "Gives a `Peak` that counts what happens inside."
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", efficient_attention))
        stack.enter_context(mock.patch.object(generate, "require_finite", lambda x, what: x))
        yield stack.enter_context(Peak())


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, shape, bias):
        ctx.shape = shape
        return F.linear(x, torch.empty(shape, dtype=x.dtype, device=META), bias)

    @staticmethod
    def backward(ctx, g):
        return g @ torch.empty(ctx.shape, dtype=g.dtype, device=META), None, None


class Packed(nn.Module):
    "A linear map in four bits."

    def __init__(self, old: nn.Linear):
        super().__init__()
        self.shape, self.bias = tuple(old.weight.shape), old.bias
        self.weight = nn.Parameter(old.weight, requires_grad=False)

    def forward(self, x):
        return _Unpacked.apply(x, self.shape, self.bias)


def pack_maps(module):
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, Packed(child))
        else:
            pack_maps(child)


def meta_backbone(dtype, quant, layers):
    "BAGEL at its real width, with few layers. Only the word table is on the CPU, and takes no memory there either."
    c = mot_config(**BAGEL_7B | dict(llm=BAGEL_7B["llm"] | dict(num_hidden_layers=layers)))
    with tempfile.TemporaryDirectory() as d:
        save_byte_tokenizer(d)
        tok = bagel_tokenizer(d, 900)
    c.special, c.spare = tok.special, tok.spare
    model, ae = empty_mot(c).to(dtype), empty_ae({})
    ae.net.to(torch.float32 if dtype == torch.float16 else dtype)
    table = torch.zeros(c.vocab_size, c.hidden_size, dtype=dtype, device=CPU)  # zeros that nobody reads take no memory
    model.language_model.model.embed_tokens.weight = nn.Parameter(table, requires_grad=False)
    if quant:
        pack_maps(model.language_model.model.layers)
    bb = Backbone(model, ae, tok, default_resizes(c, 256), BAGEL_PRESETS, "meta")
    bb.signatures, bb.model.gradient_checkpointing = {"none": b""}, True
    return bb


def step_of(bb, size, per=SamplesPerStep()):
    "{task: samples} of a step, with square pictures of so many pixels."
    vit_side = default_resizes(bb.model.config, size)[1].size((size, size))[0] // 14
    sides = dict(vit=(vit_side,) * 2, latents=(size // 16,) * 2)

    def zeros(kind, width):
        return torch.zeros(sides[kind][0] ** 2, width, dtype=bb.dtype, device=CPU)

    def vit():
        return ViTImage(zeros("vit", 1152), sides["vit"])

    def latents(t=None):
        return LatentImage(zeros("latents", 64), sides["latents"], t, None if t is None else zeros("latents", 64))

    words, answer, copies = Text(list(range(22))), Text(list(range(10)), loss=True), range(per.copies)
    return dict(
        recognise=[[vit(), words, Text([5], loss=True)] for _ in range(per.recognise)],
        vqa=[[vit(), words, answer] for _ in range(per.vqa)],
        facts=[[words, answer] for _ in range(per.facts)],
        draw=[[words, *(latents(0.5) for _ in copies)] for _ in range(per.draw)],
        edit=[[latents(), vit(), words, *(latents(0.5) for _ in copies)] for _ in range(per.edit)],
    )


def learning(bb, size, per=SamplesPerStep()):
    step, concept = step_of(bb, size, per), Concept(bb, "it", torch.zeros(33, bb.model.config.hidden_size))
    with counting(grad=True) as peak:
        if sum(sample_tokens(s) for many in step.values() for s in many) > PART_TOKENS:
            learn_in_parts(bb, concept, step, Recipe())
        else:
            sum(group_losses(task_losses(bb, concept, step), Recipe()).values()).backward()
    return peak.most


def asking(bb, size):
    with counting() as peak:
        cache = generate.prefill(bb.model, [[Text(list(range(35))), *step_of(bb, size)["recognise"][0][:2]]])
        for _ in range(2):
            b = generate.pack_for(bb.model, [[Text([1], wrap=False)]], None, cache.position.tolist())
            h = bb.model(b, cache)
            bb.model.logits(h.und[:, -1])
            cache = cache.extended(h.new, b.valid, cache.position + 1)
    return peak.most


def drawing(bb, size, edit=False):
    kind, grid = "edit" if edit else "draw", (size // 16,) * 2
    context = [Text(list(range(35))), *step_of(bb, size)[kind][0][: 3 if edit else 1]]
    with counting() as peak:
        noise = torch.zeros(1, grid[0] * grid[1], 64)
        generate.sample_latents(bb.model, [context], grid, replace(BAGEL_PRESETS[kind], num_timesteps=3), noise)
    return peak.most


def editing(bb, size):
    return drawing(bb, size, edit=True)


def decoding(bb, size, encode=False):
    dtype = next(bb.ae.parameters()).dtype

    def noise(shape, **_):
        return torch.empty(shape, dtype=dtype, device=META)

    with counting() as peak, mock.patch("diffusers.models.autoencoders.vae.randn_tensor", noise):
        if encode:
            bb.ae.encode(torch.empty(1, 3, size, size, dtype=bb.dtype, device=META))
        else:
            bb.ae.decode(torch.empty(1, 16, size // 8, size // 8, dtype=bb.dtype, device=META))
    return peak.most
