"""Configuration values: every setting of every configuration gets what does not belong there.

A wrong value is refused where it is given, with its name in the message; a good one comes back equal from JSON."""

import json
from dataclasses import asdict
from fractions import Fraction

import numpy as np

from omnipersona.concept.learn import learn
from omnipersona.concept.losses import Recipe
from omnipersona.concept.replay import ReplayConfig
from omnipersona.concept.sampling import SamplesPerStep
from omnipersona.concept.tokens import initial_embeddings
from omnipersona.model.flow import PRESETS, SamplingConfig
from omnipersona.model.loading import load_backbone
from omnipersona.model.vision import ImageResize
from omnipersona.widgets.forms import recipe_from, recipe_values
from trust.corpus import Case
from trust.material import bb, data, persona

NO_WHOLE = {  # for any whole number
    "text": "400",
    "none": None,
    "true": True,
    "a half": 0.5,
    "negative": -1,
    "nan": float("nan"),
    "infinite": float("inf"),
    "400 digits": 10**400,
    "5000 digits": 10**5000,
    "list": [1],
    "array": np.zeros(2),
}
NO_NUMBER = {k: v for k, v in NO_WHOLE.items() if k != "a half"} | {"complex": 1j, "nan of numpy": np.float32("nan")}
NO_CHOICE = {"unknown": "sideways", "none": None, "number": 3, "list": ["coupled"], "dict": {}, "other case": "COUPLED"}
SETTINGS = {  # {configuration: {setting: what does not belong there}}
    Recipe: dict.fromkeys(("steps", "warmup_steps", "n_und", "n_gen"), NO_WHOLE)
    | dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "lambda_image", "lambda_edit"), NO_NUMBER)
    | dict.fromkeys(("routing", "init", "precision"), NO_CHOICE)
    | {"samples": {"text": "many", "none": None, "list": [1], "unknown": dict(drawing=1), "inner": dict(draw=-1)}},
    SamplesPerStep: dict.fromkeys(("recognise", "vqa", "facts", "draw", "edit", "copies"), NO_WHOLE)
    | {"shift": NO_NUMBER | {"zero": 0}},
    SamplingConfig: {"num_timesteps": NO_WHOLE | {"zero": 0, "a billion": 10**9}, "cfg_renorm_type": NO_CHOICE}
    | dict.fromkeys(("cfg_text_scale", "cfg_img_scale", "cfg_renorm_min"), NO_NUMBER)
    | {"timestep_shift": NO_NUMBER | {"zero": 0}}
    | {"cfg_interval": {"one": (0.4,), "three": (0, 0.5, 1), "text": "ab", "beyond": (0, 2), "swapped": (1, 0.4)}},
    ReplayConfig: {"n_examples": NO_WHOLE | {"too many": 7}, "max_new_tokens": NO_WHOLE | {"zero": 0}}
    | {"examples": {"none": None, "text": "what ?", "one": (("a",),), "empty": (("", "x"),), "numbers": ((1, 2),)}},
    ImageResize: {"longest": NO_WHOLE, "stride": NO_WHOLE | {"zero": 0}, "shortest": NO_WHOLE, "resample": NO_CHOICE},
}
REQUIRED = {ImageResize: dict(longest=64)}


def _refused():
    "One case for every configuration, setting and wrong value."
    for cls, settings in SETTINGS.items():
        for key, values in settings.items():
            for kind, value in values.items():
                given = REQUIRED.get(cls, {}) | {key: value}
                words = () if key in ("samples", "examples") else (key,)
                name = f"{cls.__name__}.{key} is {kind}"
                yield Case("settings", name, lambda tmp, cls=cls, given=given: cls(**given), "refused", words)
        typo = next(iter(settings))
        given = REQUIRED.get(cls, {}) | {typo + "z": 1}
        words = (typo + "z", cls.__name__, f"did you mean {typo}")
        name = f"{cls.__name__} with a mistyped setting"
        yield Case("settings", name, lambda tmp, cls=cls, given=given: cls(**given), "refused", words)


GOOD = {
    "Recipe": Recipe(steps=7, learning_rate=0.1, samples=SamplesPerStep(facts=6, shift=2.5), routing="coupled"),
    "Recipe of numpy numbers": Recipe(steps=np.int64(7), learning_rate=np.float32(0.5), n_gen=np.uint8(3)),
    "Recipe of fractions": Recipe(learning_rate=Fraction(1, 4)),
    "SamplesPerStep": SamplesPerStep().only("draw"),
    "SamplingConfig": SamplingConfig(cfg_interval=[0, 1], cfg_text_scale=1),
    "SamplingConfig of numpy numbers": SamplingConfig(num_timesteps=np.int32(9), timestep_shift=np.float64(2)),
    "ReplayConfig": ReplayConfig(1, examples=[["draw {name}", "who is {name} ?"]]),
    "ImageResize": ImageResize(64, square=True),
}


def _same_after_json(config):
    return type(config)(**json.loads(json.dumps(asdict(config)))) == config


def _form(kind):
    "What `recipe_from` is given: a form, or what a concept saved."
    recipe = Recipe(steps=7, samples=SamplesPerStep(facts=6, copies=3), routing="coupled", n_gen=4)
    saved = json.loads(json.dumps(asdict(recipe)))
    return recipe, dict(
        form=recipe_values(recipe),
        saved=saved,
        recipe=recipe,
        nested=saved | dict(samples=recipe.samples),
        some=dict(steps=7, n_gen=4, routing="coupled", samples=dict(facts=6, copies=3)),
        texts=recipe_values(recipe) | {"steps": "7", "learning_rate": "0.03"},
    )[kind]


def _form_again(kind):
    recipe, given = _form(kind)
    return recipe_from(given) == recipe


BAD_FORMS = {
    "a list": ([1], "dict"),
    "text": ("recipe", "dict"),
    "an unknown name": (dict(step=7), "did you mean steps"),
    "an unknown sample": (dict(samples=dict(drawing=1)), "drawing"),
    "a text as samples": (dict(samples="many"), "samples"),
    "a number as samples": (dict(samples=3), "samples"),
    "a half step": (dict(steps=7.5), "steps"),
    "true": (dict(steps=True), "steps"),
    "words": (dict(steps="seven"), "steps"),
    "no samples at all": (dict(samples=dict(recognise=0, vqa=0, facts=0, draw=0, edit=0)), "samples"),
    "unhashable choice": (dict(routing=["coupled"]), "routing"),
    "infinite": (dict(learning_rate=float("inf")), "learning_rate"),
    "400 digits": (dict(steps="9" * 4000), "steps"),
    "nested twice": (dict(samples=dict(samples=dict(draw=1))), "samples"),
}

CALLS = {  # {name: (call, words)}: settings of functions
    "sampling is a number": (lambda: persona().generate("a photo", sampling=5), ("sampling", "draw")),
    "sampling is unknown": (lambda: persona().generate("a photo", sampling="drow"), ("drow", "draw")),
    "sampling is a dict of another kind": (lambda: persona().generate("a photo", sampling=dict(steps=3)), ("steps",)),
    "sampling of the backbone is unknown": (lambda: bb().generate_images([], [], "drow"), ("drow",)),
    "negative is unknown": (lambda: persona().generate("a photo of a dog", negative="some"), ("negative", "all")),
    "replay is a number": (lambda: persona().generate("a photo", replay=3), ("replay",)),
    "replay is a text": (lambda: persona().generate("a photo", replay="yes"), ("replay",)),
    "replay is a dict of another kind": (lambda: persona().generate("a photo", replay=dict(n=3)), ("replay",)),
    "max_new_tokens is a text": (lambda: persona().ask("what ?", max_new_tokens="9"), ("max_new_tokens",)),
    "max_new_tokens is negative": (lambda: persona().ask("what ?", max_new_tokens=-1), ("max_new_tokens",)),
    "max_new_tokens is a billion": (lambda: persona().ask("what ?", max_new_tokens=10**9), ("max_new_tokens",)),
    "more tokens than there is room": (lambda: initial_embeddings(bb(), 10**5, 16, "random"), ("100016 tokens",)),
    "learn with more tokens than room": (
        lambda: learn(bb(), data(), n_und=10**5, progress=False),
        ("tokens", "at once"),
    ),
    "learn with an unknown field": (lambda: learn(bb(), data(), step=3, progress=False), ("step", "steps")),
    "learn with a recipe of an unknown field": (lambda: learn(bb(), data(), recipe=dict(step=3)), ("step",)),
    "quant is unknown": (lambda: load_backbone("tiny", quant="nf3"), ("nf3",)),
}

CASES = [
    *_refused(),
    *(
        Case("settings", f"{name} from JSON is equal", lambda tmp, config=config: _same_after_json(config))
        for name, config in GOOD.items()
    ),
    *(
        Case("settings", f"preset {name} from JSON is equal", lambda tmp, config=config: _same_after_json(config))
        for name, config in PRESETS.items()
    ),
    *(
        Case("settings", f"recipe_from of a recipe as {kind}", lambda tmp, kind=kind: _form_again(kind))
        for kind in ("form", "saved", "recipe", "nested", "some", "texts")
    ),
    *(
        Case("settings", f"recipe_from of {name}", lambda tmp, given=given: recipe_from(given), "refused", (word,))
        for name, (given, word) in BAD_FORMS.items()
    ),
    *(Case("settings", name, lambda tmp, call=call: call(), "refused", words) for name, (call, words) in CALLS.items()),
]
