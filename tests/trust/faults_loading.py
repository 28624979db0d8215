"The faults 11, 12 and 13 of ../shared/faults as cases: FAULTS = {number: cases}."

import json

from helpers import SHORT

from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn
from omnipersona.concept.losses import Recipe
from omnipersona.widgets.forms import recipe_from

from . import cases_archives, cases_concepts, cases_hub, cases_settings
from .fault_cases import FaultCases
from .material import bb, data

FAULTS = FaultCases()
case, borrowed = FAULTS.case, FAULTS.borrowed


def read_back(tmp):
    "The recipe in concept.json is the recipe, for a form and for a run; the precision that was used is in it, too."
    c = learn(bb(), data(), "maeve", recipe=SHORT, progress=False)
    about = json.loads((c.save_pretrained(tmp / "c") / "concept.json").read_text())
    saved = about["summary"]["recipe"]
    assert Recipe(**saved) == SHORT == recipe_from(saved) and about["summary"]["precision"] == "float32"
    again = learn(bb(), data(), "maeve", recipe=saved, progress=False)
    return again.summary["recipe"] == Concept.from_pretrained(tmp / "c", bb()).summary["recipe"]


borrowed(11, cases_archives.CASES, "a zip file as Download", "a zip file with backslashes", "a zip file in folders")
borrowed(11, cases_hub.CASES, "a concept, through every door", "pinned to", "nobody answers")
borrowed(11, cases_concepts.CASES, "from swapped arguments")
borrowed(12, cases_hub.CASES, "private", "public to", "without facts")
borrowed(13, cases_settings.CASES, "recipe_from of", "Recipe from JSON", "Recipe with a mistyped")
case(13, "a saved recipe is used again", read_back)
