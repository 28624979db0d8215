"The faults 08, 09 and 16 of ../shared/faults as cases: FAULTS = {number: cases}."

import warnings

import numpy as np
import torch
from helpers import QUICK, SHORT, defaults

from omnipersona.concept.learn import learn
from omnipersona.concept.learner import Learner
from omnipersona.concept.persona import Persona
from omnipersona.widgets.studio import ConceptStudio

from . import cases_kills
from .fault_cases import FaultCases
from .material import bb, concept, data

FAULTS = FaultCases()
case = FAULTS.case


def taught(**kw):
    return learn(bb(), data(), "maeve", **dict(recipe=SHORT, progress=False) | kw)


def equal(c):
    return torch.allclose(c.embeddings, concept().embeddings, atol=1e-5)


# ---- 08: gradients are switched off around it --------------------------------------------------------------------
def without_gradients(how, do):
    "`do` inside of it; the setting is as it was afterwards."

    def run(tmp):
        concept()
        was = torch.is_grad_enabled()
        try:
            with how():
                inside = torch.is_grad_enabled()
                return do(tmp) and torch.is_grad_enabled() == inside
        finally:
            torch.set_grad_enabled(was)

    return run


class SetOff:
    "torch.set_grad_enabled(False) in the first cell of a notebook."

    def __enter__(self):
        torch.set_grad_enabled(False)

    def __exit__(self, *error):
        torch.set_grad_enabled(True)


def one_step():
    learner = Learner(bb(), data(), "maeve", recipe=SHORT)
    return learner.step()["step"] == 1


def in_the_studio():
    "Train, pressed where gradients are off."
    studio = ConceptStudio(bb())
    studio.inputs.gather = lambda: ("maeve", data())
    studio.form.boxes["steps"].value, studio.every.value = 1, 0
    return studio.train().summary["steps"] == 1


WAYS = dict(no_grad=torch.no_grad, set_grad_enabled=SetOff, inference_mode=torch.inference_mode)
DOING = {
    "learning": lambda tmp: equal(taught()),
    "going on in a folder": lambda tmp: equal(
        [taught(output_dir=tmp / "r", callbacks=[lambda x: x.global_step == 2]), taught(output_dir=tmp / "r")][1]
    ),
    "from a start": lambda tmp: taught(start=concept()).summary["steps"] == SHORT.steps,
    "one step": lambda tmp: one_step(),
    "the studio": lambda tmp: in_the_studio(),
}
for way, how in WAYS.items():
    for name, do in DOING.items():
        if way == "inference_mode":
            case(8, f"{name} in {way}", without_gradients(how, do), "refused", ("inference_mode", "outside"))
        else:
            case(8, f"{name} in {way}", without_gradients(how, do))


# ---- 09: another default dtype or device -------------------------------------------------------------------------
def drawn():
    p = Persona(bb(), concept())
    picture = p.generate("a photo of <maeve>", 0, QUICK).image
    changed = p.edit("remove <maeve>", picture, 0, QUICK).image
    return np.asarray(picture), np.asarray(changed), p.ask("is <maeve> in the photo ?", picture, 4).text


def with_defaults(do, **other):
    "The same result as with torch's own defaults."

    def run(tmp):
        concept()
        before = do(tmp)
        with defaults(**other):
            now = do(tmp)
        same = [np.array_equal(a, b) for a, b in zip(before, now)]
        return all(same)

    return run


DEFAULTS = (dict(dtype=torch.float64), dict(dtype=torch.bfloat16), dict(dtype=torch.float16), dict(device="meta"))
for other in DEFAULTS:
    said = str(next(iter(other.values()))).removeprefix("torch.")
    case(9, f"drawing, editing and asking with {said} as default", with_defaults(lambda tmp: drawn(), **other))
    rows = with_defaults(lambda tmp: [taught().embeddings.numpy().round(4)], **other)
    case(9, f"learning with {said} as default", rows)

# ---- 16: the folder fails ----------------------------------------------------------------------------------------
for c in cases_kills.CASES:
    if c.name.startswith(("disk full", "the folder is removed", "a file ", "a folder ", "No space", "Input/output")):
        case(16, c.name, c.run, c.expect, c.words)


def warned_once_and_returned(tmp):
    "The warning names the step, the folder, the reason and what to do."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        taught(
            output_dir=tmp / "run",
            callbacks=[cases_kills.at(6, lambda: (tmp / "run" / "checkpoint.safetensors").mkdir())],
        )
    told = [str(w.message) for w in said if "could not be written" in str(w.message)]
    return len(told) == 1 and all(word in told[0] for word in ("step 6", "run", "free some space"))


case(16, "the warning says what to do", warned_once_and_returned)
