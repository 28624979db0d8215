"""NaN, infinity, overflow, a loss that diverges, and memory that runs out: at any step, in losses, gradients, latents.

What was learnt before is what comes back, to the bit, and the summary says why; nothing learnt: an error that says what
to do."""

import functools
import json
import math
import warnings
from contextlib import contextmanager
from dataclasses import replace

import torch
from helpers import QUICK, SHORT, random_backbone

import omnipersona.concept.learner as learner_module
from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona
from trust.corpus import Case
from trust.material import bb, data, photos

CASES: list[Case] = []
LONG = replace(SHORT, steps=40)
BAD = dict(nan=math.nan, inf=math.inf, minus_inf=-math.inf)
NOT_FINITE = ("not finite", "lower the learning rate", "float32")
MEMORY = ("memory ran out", "random", "SamplesPerStep")


def case(name, run, expect="accepted", words=()):
    slow = name.startswith(("minus_inf", "RuntimeError in", "nan in the l", "inf in the g")) and "first" not in name
    CASES.append(Case("numbers", name, run, expect, words, slow))


def taught(callbacks=(), backbone=None, **kw):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        c = learn(backbone or bb(), data(), "maeve", **dict(recipe=LONG, progress=False, callbacks=callbacks) | kw)
    return c, " ".join(str(w.message) for w in said)


@functools.cache
def good():
    "The embeddings after every step of a run without harm, from 0 on."
    learner = learner_module.Learner(bb(), data(), "maeve", recipe=LONG)
    seen = [learner.concept.embeddings.detach().clone()]
    for _ in range(20):
        learner.step()
        seen.append(learner.concept.embeddings.detach().clone())
    return seen


@contextmanager
def losses_changed(change):
    "`change(step, loss)` for the loss of every task; steps count from 1."
    true, count = learner_module.task_losses, []

    def changed(*given):
        count.append(1)
        return {task: (change(len(count), loss), n) for task, (loss, n) in true(*given).items()}

    learner_module.task_losses = changed
    try:
        yield
    finally:
        learner_module.task_losses = true


def whole(c):
    "Finite throughout, and its summary is JSON without NaN."
    json.dumps(c.summary, allow_nan=False)
    return bool(torch.isfinite(c.embeddings).all())


# ---- NaN and infinity --------------------------------------------------------------------------------------------
def bad_losses(value, step):
    "From a step on: what came before is returned."

    def run(tmp):
        with losses_changed(lambda i, loss: loss * value if i >= step else loss):
            c, said = taught(output_dir=tmp / "run")
        near = torch.allclose(c.embeddings, good()[step - 1], atol=1e-5)
        told = "not finite" in c.summary["why"] and f"since step {step}" in said and c.summary["stopped"]
        return whole(c) and near and told

    return run


def bad_gradient(value, step, last=10**6, columns=slice(None)):
    "Gradients with such a number from a step on, or for some steps; the losses are good."

    def run(tmp):
        def poison(learner):
            if learner.global_step == step - 1:
                parameter = learner.concept.embeddings
                handle = []

                def hook(gradient):
                    gradient = gradient.clone()
                    gradient[0, columns] = value
                    if learner.global_step + 1 >= last:
                        handle[0].remove()
                    return gradient

                handle.append(parameter.register_hook(hook))

        if step == 1:
            true = learner_module.Learner.__init__

            def begun(self, *given, **kw):
                true(self, *given, **kw)
                poison(self)

            learner_module.Learner.__init__ = begun
        try:
            c, said = taught([poison], recipe=LONG if last > 100 else SHORT)
        finally:
            if step == 1:
                learner_module.Learner.__init__ = true
        if last > 100:
            return whole(c) and torch.allclose(c.embeddings, good()[step - 1], atol=1e-5) and "not finite" in said
        return whole(c) and c.summary["steps"] == SHORT.steps and not c.summary["stopped"]

    return run


for name, value in BAD.items():
    for step in (2, 5):
        case(f"{name} in the losses from step {step} on", bad_losses(value, step))
        case(f"{name} in the gradient from step {step} on", bad_gradient(value, step))
    case(f"{name} in the losses from the first step on", bad_losses(value, 1), "refused", NOT_FINITE)
    case(f"{name} in the gradient from the first step on", bad_gradient(value, 1), "refused", NOT_FINITE)
    case(f"{name} in one value of one gradient", bad_gradient(value, 3, 3, slice(0, 1)))
    case(f"{name} in four gradients", bad_gradient(value, 2, 5))


def bad_pictures(kind, value, which):
    "Latents or features of some pictures, or of all, are changed once they are encoded."

    def run(tmp):
        def poison(learner):
            if learner.global_step == 1:
                for s in getattr(learner.encoded, kind)[which]:
                    name = "x" if kind == "latents" else "features"
                    setattr(s, name, torch.full_like(getattr(s, name), value))

        c, _ = taught([poison], recipe=replace(SHORT, steps=12))
        return whole(c) and c.summary["steps"] >= 10

    return run


for kind in ("latents", "images"):
    for name, value in BAD.items():
        case(f"{name} in the {kind} of a picture", bad_pictures(kind, value, slice(0, 1)))
    case(f"nan in the {kind} of all pictures", bad_pictures(kind, math.nan, slice(None)))
case("huge latents", bad_pictures("latents", 1e30, slice(None)))


@contextmanager
def encoder(part, value):
    "The autoencoder or the ViT of another backbone of the same kind, with such a number in its output."
    b = random_backbone()
    module = {"ae": b.ae, "vit": b.model.vit_model, "model": b.model}[part]
    for p in module.parameters():
        if p.ndim == 1 and len(p) > 1:
            p.data[0] = value
    yield b


def of_broken(part, value, do):
    def run(tmp):
        with encoder(part, value) as b:
            do(b)

    return run


DOING = {
    "learning": lambda b: learn(b, data(), "maeve", recipe=SHORT, progress=False),
    "asking": lambda b: Persona(b, Concept(b, "maeve")).ask("is <maeve> in the photo ?", photos()[0], 2),
    "drawing": lambda b: Persona(b, Concept(b, "maeve")).generate("a photo of <maeve>", 0, QUICK),
    "editing": lambda b: Persona(b, Concept(b, "maeve")).edit("remove <maeve>", photos()[0], 0, QUICK),
}
for part, value, names in (
    ("vit", math.nan, ("learning", "asking", "editing")),
    ("ae", math.inf, ("learning", "editing")),
    ("model", math.nan, ("asking", "drawing", "editing")),
):
    for name in names:
        case(
            f"{value} in the weights of the {part}: {name}",
            of_broken(part, value, DOING[name]),
            "refused",
            ("float32",),
        )


# ---- too fast ----------------------------------------------------------------------------------------------------
def extreme(**fields):
    "Learns, or says what to do; what comes back is finite either way."

    def run(tmp):
        try:
            c, _ = taught(recipe=replace(LONG, steps=12, **fields))
        except learner_module.Diverged as e:
            return "lower the learning rate" in str(e)
        return whole(c)

    return run


for fields in (
    dict(learning_rate=1e4),
    dict(learning_rate=1e30, max_grad_norm=1e10),
    dict(lambda_image=1e30),
    dict(lambda_edit=1e30, max_grad_norm=1e30),
    dict(weight_decay=1e6),
    dict(max_grad_norm=0.0),
    dict(precision="float16"),
    dict(precision="float16", lambda_image=1e5, lambda_edit=1e5),
    dict(precision="float16", learning_rate=1e6),
    dict(precision="bfloat16", learning_rate=1e6),
):
    case("extreme: " + ", ".join(f"{k}={v}" for k, v in fields.items()), extreme(**fields))


def half_backbone(tmp):
    "A backbone in float16, as on a T4, on the CPU."
    b = random_backbone()
    b.model.to(torch.float16)
    b.ae.to(torch.float16)
    c, _ = taught(backbone=b, recipe=SHORT)
    return whole(c) and c.embeddings.dtype == torch.float32


case("a backbone in float16", half_backbone)


def diverges(step, factor):
    "The loss grows without end from a step on: back to a state from before it got out of hand."

    def run(tmp):
        with losses_changed(lambda i, loss: loss * factor ** max(0, i - step + 1)):
            c, said = taught(output_dir=tmp / "run")
        n = c.summary["steps"]
        told = "diverges" in c.summary["why"] and "lower the learning rate" in said and f"back to step {n}" in said
        same = torch.allclose(c.embeddings, good()[n], atol=1e-5) if n < step else True
        with losses_changed(lambda i, loss: loss * factor ** max(0, i + n - step + 1)):
            again, _ = taught(output_dir=tmp / "run")
        return whole(c) and told and 0 < n <= step + 4 and same and again.summary["steps"] <= step + 4

    return run


for step, factor in ((12, 3.0), (15, 10.0), (12, 1e6), (18, 1.8)):
    case(f"the loss grows {factor:g}-fold a step from step {step} on", diverges(step, factor))


def jumps(tmp):
    "A loss that jumps for two steps is no reason to stop; nor is one that is near nothing and doubles."
    with losses_changed(lambda i, loss: loss * (4 if i in (14, 15) else 1)):
        c, _ = taught()
    with losses_changed(lambda i, loss: loss * (1e-4 if i < 15 else 5e-3)):
        d, _ = taught()
    return not c.summary["stopped"] and not d.summary["stopped"]


case("a loss that jumps", jumps)


# ---- memory ------------------------------------------------------------------------------------------------------
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    MemoryError(),
)


def no_memory(error, step):
    def run(tmp):
        def raised(i, loss):
            if i >= step:
                raise error
            return loss

        with losses_changed(raised):
            c, said = taught(output_dir=tmp / "run")
        told = "memory ran out while learning" in c.summary["why"] and "SamplesPerStep" in said
        state = torch.allclose(c.embeddings, good()[step - 1], atol=1e-5) and c.summary["steps"] == step - 1
        goes_on, _ = taught(output_dir=tmp / "run", recipe=replace(LONG, steps=step + 1))
        return whole(c) and told and state and goes_on.summary["steps"] == step + 1

    return run


def no_memory_for(error, method, do):
    "The backbone has no memory left for a method."

    def run(tmp):
        b = random_backbone()

        def raised(*given, **kw):
            raise error

        setattr(b, method, raised)
        do(b)

    return run


for error in ERRORS:
    name = type(error).__name__
    case(f"{name} at step 4", no_memory(error, 4))
    case(f"{name} at the first step", no_memory(error, 1), "refused", (*MEMORY, "learning"))
    for method, what, told in (
        ("encode_vit", "learning", "reading the pictures"),
        ("generate_text", "asking", "asking"),
        ("generate_images", "drawing", "drawing"),
        ("generate_images", "editing", "editing"),
    ):
        case(f"{name} in {method}: {what}", no_memory_for(error, method, DOING[what]), "refused", (*MEMORY, told))


def another_error(tmp):
    "An error that has nothing to do with memory stays what it is."
    try:
        no_memory_for(RuntimeError("shapes differ"), "generate_text", DOING["asking"])(tmp)
    except RuntimeError as e:
        return "shapes differ" in str(e)
    return False


case("another error stays what it is", another_error)
