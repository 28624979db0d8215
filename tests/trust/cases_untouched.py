"""The backbone is never touched: whatever is done with concepts, its weights stay the same bytes, and what it answers
and draws without a concept stays the same bits. The tiny kind and BAGEL's layout."""

import gc
import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
from helpers import QUICK, SHORT

import omnipersona.concept.learner as learner_module
from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept, TextPrompt
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona
from omnipersona.inside.concept_maps import concept_maps
from omnipersona.inside.recording import record
from omnipersona.pictures import png_bytes
from trust.corpus import Case
from trust.material import bagel, bb, data, photos

CASES: list[Case] = []
SHORTER = replace(SHORT, steps=2)
PHOTO = "a photo of <maeve>"


def state(b):
    "Every byte of the backbone, and how it is set."
    out = {}
    for part, module in (("model", b.model), ("autoencoder", b.ae)):
        for name, t in [*module.named_parameters(), *module.named_buffers()]:
            plain = t.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
            digest = hashlib.sha256(plain.numpy().tobytes()).hexdigest()
            out[f"{part}.{name}"] = (digest, str(t.dtype), str(t.device), t.requires_grad, t.grad is None)
        out[part] = [(name, m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in
                     module.named_modules()]  # fmt: skip
    settings = (
        b.fingerprint,
        b.tok.hf.to_str(),
        list(b.tok.names),
        b.tok.vocab_size,
        b.vae_resize,
        b.vit_resize,
        b.presets,
    )
    return out | dict(
        settings=repr(settings), observers=repr([m.observer for m in b.model.modules() if hasattr(m, "observer")])
    )


def outputs(b):
    "What the backbone says and draws without a concept."
    picture, text = b.encode_vit(photos()[0])[0], b.text("what is in the photo ?")
    with torch.no_grad():
        said = b.generate_text([[picture, text]], None, 4)
        drawn = b.generate_images([[b.text("a photo of a red dog")]], [3], QUICK)[0]
        source = b.encode_source(photos()[1])[0]
        edited = b.generate_images([[*source, b.text("remove the dog")]], [4], QUICK)[0]
    return repr(said), png_bytes(drawn), png_bytes(edited)


def taught(b, name="maeve", **kw):
    return learn(b, data(), name, **dict(recipe=SHORTER, progress=False) | kw)


def persona(b):
    generator = torch.Generator("cpu").manual_seed(0)
    shape = 33, b.model.config.hidden_size
    return Persona(b, Concept(b, "maeve", torch.randn(shape, generator=generator, dtype=torch.float32)))


def interrupted(b, tmp):
    def press(learner):
        if learner.global_step == 1:
            raise KeyboardInterrupt

    assert taught(b, callbacks=[press]).summary["stopped"]


def diverged(b, tmp):
    true = learner_module.task_losses
    learner_module.task_losses = lambda *given: {k: (x * float("nan"), n) for k, (x, n) in true(*given).items()}
    try:
        taught(b, recipe=replace(SHORT, steps=20))
    except OmniError:
        return
    finally:
        learner_module.task_losses = true
    raise AssertionError("learnt from NaN")


def refused(b, tmp):
    "What is refused leaves no trace, either."
    p = persona(b)
    for wrong in (lambda: p.ask("is <rex> here ?"), lambda: p.generate(""), lambda: learn(b, data(), "no name")):
        try:
            wrong()
            raise AssertionError("accepted")
        except OmniError:
            pass


def saved(b, tmp):
    path = persona(b).concepts["maeve"].save_pretrained(tmp / "c")
    for slot in (None, 1):
        Persona(b, [Concept.from_pretrained(path, b, slot)])
    p = Persona(b, [path])
    del p
    gc.collect()


def several(b, tmp):
    g = [torch.Generator("cpu").manual_seed(i) for i in range(2)]
    shape = 33, b.model.config.hidden_size
    two = [Concept(b, n, torch.randn(shape, generator=x, dtype=torch.float32)) for n, x in zip(("maeve", "bo"), g)]
    p = Persona(b, two)
    p.ask("is <bo> in the photo ?", photos()[0], 2)
    p.generate("a photo of <maeve>", 1, QUICK)


def recorded(b, tmp):
    p = persona(b)
    concept_maps(p, PHOTO, seed=1, sampling=QUICK)


def observed(b, tmp):
    with record(b) as recording:
        persona(b).ask("is <maeve> in the photo ?", photos()[0], 2)
    assert recording is not None


def in_words(b, tmp):
    Persona(b, TextPrompt(b, "maeve", "a red dog")).ask("what is <maeve> ?", None, 2)


def kept_in_a_folder(b, tmp):
    b.save_pretrained(tmp / "backbone")


DOING: dict[str, Callable] = {
    "learning": lambda b, tmp: taught(b),
    "learning, coupled, from words": lambda b, tmp: taught(b, routing="coupled", init="words"),
    "learning in bfloat16": lambda b, tmp: taught(b, precision="bfloat16"),
    "learning with previews": lambda b, tmp: taught(b, preview=1),
    "learning in a folder, twice": lambda b, tmp: [taught(b, output_dir=tmp / "run") for _ in range(2)],
    "learning from a start": lambda b, tmp: taught(b, start=taught(b)),
    "interrupted learning": interrupted,
    "learning that fails": diverged,
    "asking": lambda b, tmp: persona(b).ask("is <maeve> in the photo ?", photos()[0], 4),
    "drawing": lambda b, tmp: persona(b).generate(PHOTO, 1, QUICK),
    "drawing with replay": lambda b, tmp: persona(b).generate("<maeve> with its toy", 1, QUICK, replay=True),
    "editing": lambda b, tmp: persona(b).edit("remove <maeve>", photos()[0], 1, QUICK),
    "drawing again": lambda b, tmp: (p := persona(b)).redraw(p.generate(PHOTO, 1, QUICK)),
    "maps of the concept": recorded,
    "recording attention": observed,
    "saving, loading, unloading": saved,
    "two concepts": several,
    "a concept in words": in_words,
    "requests that are refused": refused,
    "saving the backbone": kept_in_a_folder,
}


def untouched(size, do):
    def run(tmp):
        b = size()
        before, said = state(b), outputs(b)
        do(b, tmp)
        after = state(b)
        changed = [k for k in before if before[k] != after.get(k)]
        assert not changed and before.keys() == after.keys(), changed[:5]
        return outputs(b) == said

    return run


for kind, size in (("tiny kind", bb), ("BAGEL's layout", bagel)):
    for name, do in DOING.items():
        slow = size is bagel and name not in ("learning", "asking", "drawing", "editing", "drawing with replay")
        CASES.append(Case("untouched", f"{kind}: {name}", untouched(size, do), slow=slow))
