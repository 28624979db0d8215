"The faults 01, 02, 03, 18 and 26 of ../shared/faults as cases: FAULTS = {number: cases}."

import ast
import pkgutil
import sys
from datetime import datetime
from pathlib import Path

import omnipersona
import omnipersona.all as star
from omnipersona.concept.concept import Concept
from omnipersona.concept.learner import Learner
from omnipersona.concept.persona import Persona
from omnipersona.concept.requests import request_segments
from omnipersona.data import ConceptData
from omnipersona.pictures import png_bytes
from omnipersona.widgets.studio import ConceptStudio
from omnipersona.widgets.upload_button import MOST_UPLOADED

from .fault_cases import FaultCases
from .material import bagel, bb, photos

FAULTS = FaultCases()
case = FAULTS.case


def the_limit_is_said(tmp):
    return "10 MB" in MOST_UPLOADED and all(
        b.limit in b.widget.children and b.limit.value == MOST_UPLOADED
        for b in buttons(ConceptStudio(bb(), folder=tmp))
    )


def buttons(s):
    return [s.sources["upload"].button, s.storage.upload, s.tryout.about.upload, s.tryout.source.upload]


def the_next_upload_works(tmp):
    "Nothing arrived: it is said, and the button that hears no more is replaced."
    s = ConceptStudio(bb(), folder=tmp)
    s.source.value = "upload"
    old = s.sources["upload"].files
    s.check_button.click()
    new = s.sources["upload"].files
    assert (
        s.said.bad and "10 MB" in s.said.text and new is not old and new in s.sources["upload"].button.widget.children
    )
    about = dict(type="", size=1, last_modified=datetime(2026, 1, 1))
    new.value = tuple(dict(name=f"{i}.png", content=memoryview(png_bytes(p)), **about) for i, p in enumerate(photos()))
    s.check_button.click()
    return "3 pictures" in s.said.text


def a_front_end_comes_back(tmp):
    "After the connection was dropped: a new button, with the files that had arrived."
    import asyncio

    s = ConceptStudio(bb(), folder=tmp)
    button = s.sources["upload"].button
    about = dict(type="", size=1, last_modified=datetime(2026, 1, 1), content=memoryview(png_bytes(photos()[0])))
    button.file.value = (dict(name="a.png", **about),)

    async def connected():
        old = button.file
        button._reconnected()
        await asyncio.sleep(0)
        return button.file is not old

    return (
        asyncio.run(connected())
        and [n for n, _ in button.files] == ["a.png"]
        and "connected again" in button.limit.value
    )


def an_upload_is_lost(tmp):
    "Too large after one that arrived: Check says that it counts the earlier pictures, until an upload arrives again."
    s, said = ConceptStudio(bb(), folder=tmp), []
    s.source.value = "upload"
    button = s.sources["upload"].button
    about = dict(type="", size=1, last_modified=datetime(2026, 1, 1))
    files = [dict(name=f"{i}.png", content=memoryview(png_bytes(p)), **about) for i, p in enumerate(photos())]
    for lost, here in ((False, files[:3]), (True, None), (True, None), (False, files[:2])):
        if lost:
            button._begin_again()
        else:
            button.file.value = tuple(here)
        s.check_button.click()
        said.append(s.said.text)
    counted = ["3 pictures" in said[0], "3 pictures" in said[1], "3 pictures" in said[2], "3 pictures" in said[3]]
    return all(counted) and ["has not arrived" in text for text in said] == [False, True, True, False]


case(1, "the limit stands at every button", the_limit_is_said)
case(1, "the next upload works", the_next_upload_works)
case(1, "an upload that is lost is not taken for the one before", an_upload_is_lost)
case(1, "a front end that comes back gets a new button", a_front_end_comes_back)


def captioned(size, text):
    return Learner(size(), ConceptData(list(photos()), captions=[text] * 3), "maeve")


def means_the_concept(size, text):
    learner = captioned(size, text)
    return all(learner.concept.ids[0] in c.ids for c in learner.encoded.captions)


def asked(size, text):
    b = size()
    return len(request_segments(b, text, Persona(b, Concept(b, "maeve")).concepts)[0]) == 1


for size in (bb, bagel):
    kind = "tiny" if size is bb else "BAGEL"
    for name in ("<sks>", "<maeve>"):
        text = f"a photo of {name} at the beach"
        case(2, f"{kind}, caption with {name}", lambda tmp, s=size, t=text: means_the_concept(s, t))
    case(
        2,
        f"{kind}, another name",
        lambda tmp, s=size: captioned(s, "a photo of <rex>"),
        "refused",
        ("<rex>", "<maeve>"),
    )
    case(2, f"{kind}, without brackets", lambda tmp, s=size: captioned(s, "a photo of maeve"), "refused", ("<maeve>",))
    case(2, f"{kind}, request", lambda tmp, s=size: asked(s, "is <maeve> in the photo ?"))
    case(
        2, f"{kind}, request without brackets", lambda tmp, s=size: asked(s, "is maeve here ?"), "refused", ("<maeve>",)
    )

VERBATIM = [
    "May 3rd, 2019",
    "3.5 kg",
    "Dr. O'Neil, 10:30",
    "Woof! Never give up!",
    "HELLO, WORLD! 50.5%",
    "a  b",
    "Ünïcode ☂",
]


def taught(text):
    "As a fact, a caption, an answer, a request."
    b = bagel()
    e = Learner(
        b,
        ConceptData(list(photos()), facts={"toy": text}, captions=[f"<sks>: {text}"] * 3, qa=[(0, "who ?", text)]),
        "rex",
    ).encoded
    p = Persona(b, Concept(b, "rex"))
    read = [
        b.tok.decode(e.facts[0][1]),
        b.tok.decode(e.captions[0].ids).removeprefix("<name_0>: "),
        b.tok.decode(e.qa[0][2]),
        b.tok.decode(request_segments(b, text, p.concepts)[2].ids),
        p.ask(text, max_new_tokens=1).prompt,
    ]
    assert read == [text] * 5, read
    return True


for text in VERBATIM:
    case(3, f"verbatim: {text}", lambda tmp, t=text: taught(t))


def hides_nothing(tmp):
    names = set(star.__all__)
    modules = {m.name for m in pkgutil.iter_modules()} | set(sys.stdlib_module_names)
    exported: dict = {}
    exec("import requests\nfrom omnipersona.all import *", exported)
    return not names & modules and exported["requests"].__name__ == "requests" and "get" in dir(exported["requests"])


case(18, "the star import hides no module", hides_nothing)
case(
    18, "the star import is short", lambda tmp: len(star.__all__) <= 80 and len(set(star.__all__)) == len(star.__all__)
)
MODULES = sorted(Path(omnipersona.__file__).parent.rglob("*.py"))
for minor in (10, 11, 12, 13):

    def parses(tmp, minor=minor):
        return all(ast.parse(p.read_text(encoding="utf-8"), feature_version=(3, minor)) for p in MODULES)

    case(26, f"every module parses with the grammar of Python 3.{minor}", parses)
