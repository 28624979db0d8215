"""Markup in every text that a person types, in every place that becomes HTML.

A case holds if the parsed HTML has only the tags and attributes that this package writes, and shows the text letter by
letter."""

import html.parser
import json
import re

import numpy as np
from PIL import Image

from omnipersona.basics import picture_grid
from omnipersona.concept.concept import Concept, TextPrompt
from omnipersona.concept.persona import Result
from omnipersona.concept.replay import Stage, Trace
from omnipersona.inside.concept_maps import ConceptMaps
from omnipersona.model.memory import Plan
from omnipersona.pictures import png_bytes
from omnipersona.widgets.attention_explorer import AttentionExplorer
from omnipersona.widgets.attention_page import SCRIPT
from omnipersona.widgets.boards import CrossTaskBoard, TokenMap
from omnipersona.widgets.html import export_page, page, picture_html
from omnipersona.widgets.inputs import StatusLine
from omnipersona.widgets.replay_explorer import ReplayExplorer, replay_parts
from omnipersona.widgets.run_pictures import studio_parts
from omnipersona.widgets.share import class_index, share_page
from omnipersona.widgets.studio import ConceptStudio
from trust.corpus import Case
from trust.material import bb, concept, persona

PAYLOADS = {
    "image": "<img src=x onerror=alert(1)>",
    "script": "<script>alert(1)</script>",
    "end of a script": "</script><script>alert(1)</script>",
    "out of an attribute": '"><svg onload=alert(1)>',
    "out of a quoted attribute": "' onmouseover='alert(1)' x='",
    "end of a title": "</title><script>alert(1)</script>",
    "end of a style": "</style><img src=x onerror=alert(1)>",
    "comment": "--><img src=x onerror=alert(1)><!--",
    "address": "<a href='javascript:alert(1)'>x</a>",
    "frame": "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "escaped once": "&lt;img src=x onerror=alert(1)&gt;",
    "escaped for JSON": "\\u003cimg src=x onerror=alert(1)\\u003e",
    "table that ends": "</td></tr></table><img src=x onerror=alert(1)>",
    "mathematics": "<math><mi xlink:href='javascript:alert(1)'>$\\frac$",
    "form": "<form action=//evil.example><input name=x><button>go",
    "cases": "<ScRiPt >alert(1)</sCrIpT >",
    "text area": "</textarea><script>alert(1)</script>",
    "template": "{{constructor.constructor('alert(1)')()}} ${alert(1)}",
}
TAGS = set("b br body div figcaption figure h1 h3 html i img li meta p small style table td title tr ul a".split())
TAGS |= set("label select input output noscript button b i span th caption h2 ul".split())  # pages, tables
TAGS |= set("svg text rect circle line polyline image".split())  # of figures; of the attributes only what draws
ATTRIBUTES = set("style class charset content http-equiv alt id type min max value role scope aria-label".split())
DRAWN = "width height viewbox x y x1 x2 y1 y2 cx cy r points transform fill fill-opacity stroke stroke-width opacity"
ATTRIBUTES |= set(f"{DRAWN} text-anchor font-size pointer-events preserveaspectratio data-rows data-cols".split())
LINKS = {
    "src": r"data:image/png;base64,[\w+/=]*",
    "href": r"data:(application/zip|image/png);base64,[\w+/=]*|[\w-]+\.html",
    "download": r"\w+\.zip",
}

HEAD = {("html", "lang", "en"), ("meta", "name", "viewport")}  # of every page


class Parsed(html.parser.HTMLParser):
    "What a browser would see: the text, and what must not be there."

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.text, self.bad, self.inside = "", [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        if tag == "script":
            return
        if tag not in TAGS:
            self.bad.append(tag)
        for name, value in attrs:
            if name in ("alt", "aria-label"):
                self.text += value or ""
            link = name in LINKS and re.fullmatch(LINKS[name], value or "")
            known = name in ATTRIBUTES or link or (tag, name, value) in HEAD
            if not known:
                self.bad.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_comment(self, comment):
        self.bad.append(f"comment {comment}")

    def handle_data(self, text):
        if self.inside != "script":
            self.text += text
        elif text.strip() != SCRIPT.strip():
            self.text += json.dumps(json.loads(text), ensure_ascii=False)  # data only


def inert(markup, *shown):
    "Whether HTML has only what this package writes, and shows the texts."
    p = Parsed(markup)
    text = p.text + json.dumps(p.text, ensure_ascii=False)
    missing = [s for s in shown if s not in p.text and json.dumps(s, ensure_ascii=False)[1:-1] not in text]
    assert not p.bad and not missing, f"{p.bad[:3]}, not shown: {missing[:2]}, {markup[:300]}"
    return True


def widgets_in(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from widgets_in(child)


def quiet(widget, *shown):
    "Whether a tree of widgets holds markup only where it is escaped, and no description with any."
    import ipywidgets as w

    markup = "".join(i.value for i in widgets_in(widget) if isinstance(i, w.HTML) or hasattr(i, "pinned"))
    labels = [getattr(i, "description", "") for i in widgets_in(widget)]  # ipywidgets 7 reads them as HTML
    assert not [x for x in labels if "<" in x], labels
    return inert(markup, *shown)


PNG = png_bytes(Image.new("RGB", (4, 4), "teal"))
PICTURE = Image.new("RGB", (16, 16), "teal")


def result(text, **more):
    return Result(request=text, prompt=text, text=text, **more)


def trace(x):
    stages = [Stage("intent", x, x, [1], [0.0], 3, 0.1, x)]
    return Trace(request=x, question=x, answer=x, prompt=x, examples=[(x, x)], stages=stages, fallback=x)


def learnt(x):
    "A concept whose folder was made by somebody else."
    how = dict(steps=x, recipe=dict(steps=x), seconds=1.0, seed=x)
    return Concept(bb(), "maeve", facts={x: x, "toy": x}, summary=how)


def maps(x):
    weights = np.random.default_rng(0).random((2, 2, 2, 3, 4, 4), np.float32)
    return ConceptMaps(weights, [x, f"und {x}", "gen 1"], ["name", "und", "gen"], [1.0, 0.5], PICTURE)


def matrix(x):
    return dict(rows=["nothing", x], columns=[x, "b"], mean=[[0.1, 0.2], [0.3, 0.4]], sd=[[0, 0], [0, 0]], n=2, title=x)


def conflict(x):
    numbers = dict(
        cosine=np.zeros((1, 3, 1)).tolist(), length=np.ones((1, 3, 2)).tolist(), reliability=np.ones((1, 3, 2)).tolist()
    )
    return dict(steps=[x], tokens=["<sks>", "und 1", "gen 1"], pairs=[f"{x} / b"], tasks=[x, "b"], routing=x, **numbers)


def geometry(x):
    points = np.zeros((1, 3, 2)).tolist()
    return dict(points=points, at=[x], groups=[None, "und", "gen"], separation=[0.5], routing=x, how=x, shared=False)


def studio():
    return ConceptStudio(bb(), "maeve", folder="nowhere")


def in_the_studio(x, tmp):
    "Typed into boxes of the studio; buttons are pressed."
    s = studio()
    s.name.value = x
    s.check_button.click()
    s.path.value = x
    s.load_button.click()
    return quiet(s.widget, x) and quiet(s.said.widget, s.said.text) and bool(s.said.bad)


def uploaded(x, tmp):
    "The name of a file that is no picture."
    from datetime import datetime

    s = studio()
    s.source.value = "upload"
    file = dict(name=x, type="", size=2, content=memoryview(b"no"), last_modified=datetime(2026, 1, 1))
    s.sources["upload"].files.value = (file,)
    s.check_button.click()
    return s.said.bad and x in s.said.text and quiet(s.widget, s.said.text)


def studio_page(x, tmp):
    s = studio()
    s._take(learnt(x))
    s.tryout.results = dict(Ask=result(x), Draw=result(x, image=PICTURE), Edit=result(x, image=PICTURE), before=PICTURE)
    text = s.export(tmp / "x.html").read_text(encoding="utf-8")
    return inert(text, x) and quiet(s.widget) and inert(s.static().data, x)


def tried(x, tmp):
    "A request in the tabs of the studio."
    s = studio()
    s._take(concept())
    for box, name in ((s.tryout.question, "Ask"), (s.tryout.prompt, "Draw")):
        box.value = x
        s.tryout.buttons[name].click()
    line = s.tryout.understood["Ask"].line  # a request that is not understood is not asked
    return line.bad and quiet(s.widget, line.text)


def replayed(x, tmp):
    "A request in the box of the replay explorer."
    explorer = ReplayExplorer(persona(), "a photo of <maeve>", sampling=bb().presets["draw"].__class__(2, 2.0, 1.0))
    explorer.boxes[0].value = x
    explorer.replay_button.click()
    return quiet(explorer.widget) and "<b" in explorer.status.value


def attention(x, tmp):
    explorer = AttentionExplorer({x: maps(x), "other": maps(x)})
    text = explorer.export_html(tmp / "x.html").read_text(encoding="utf-8")
    inert(explorer.export(tmp / "y.html").read_text(encoding="utf-8"), x)
    return inert(text, x) and inert("".join(explorer.parts()), x) and quiet(explorer.widget, x)


def board(x, tmp):
    b = CrossTaskBoard(matrix(x), conflict(x), baseline="nothing")
    return inert(b.export(tmp / "x.html").read_text(encoding="utf-8"), x) and quiet(b.widget, x)


def token_map(x, tmp):
    m = TokenMap(geometry(x))
    return inert(m.export(tmp / "x.html").read_text(encoding="utf-8"), x) and quiet(m.widget, x)


def shared(x, tmp):
    c = learnt(x)
    drawings, card = [(PICTURE, x)], [x]
    page_file = share_page(tmp / "shared", c, x, drawings, card, [PICTURE], True, {x: maps(x)})
    index = class_index(tmp / "shared", x)
    return inert(page_file.read_text(encoding="utf-8"), x) and inert(index.read_text(encoding="utf-8"), x)


def said(x, tmp):
    line = StatusLine()
    line(x, True)
    return quiet(line.widget, x)


def plan(x, tmp):
    p = Plan(x, x, 64, None, "float32", 1.0, {}, {x: 1.0}, {x: 1.0}, {x: (1.0, 2.0)}, (x,), (x,))
    return inert(p._repr_html_(), x)


def whole_page(x, tmp):
    path = export_page(tmp / "x.html", x, [picture_html(PNG, x)])
    return inert(path.read_text(encoding="utf-8"), x) and inert(page(x, []), x)


PLACES = {  # {place: HTML of a text, or a check of it}
    "status line": said,
    "caption and title of a page": whole_page,
    "replay card": lambda x, tmp: inert(trace(x)._repr_html_(), x),
    "replay page": lambda x, tmp: inert("".join(replay_parts(trace(x), (PNG, PNG, PNG))), x),
    "facts and results of the studio": lambda x, tmp: inert(
        "".join(studio_parts(learnt(x), results=dict(Ask=result(x), Draw=result(x, image=PICTURE)))), x
    ),
    "exported studio": studio_page,
    "boxes of the studio": in_the_studio,
    "name of an uploaded file": uploaded,
    "requests of the studio": tried,
    "attention explorer": attention,
    "cross-task board": board,
    "token map": token_map,
    "shared page and index of a class": shared,
    "plan": plan,
}
SLOW = {"replay explorer": replayed}  # and these: they draw pictures, or wait for a button
DEAR = {*SLOW, "requests of the studio", "exported studio", "boxes of the studio", "cross-task board", "token map"}
FEW = ("image", "out of a quoted attribute")


CASES = [
    Case("html", f"{place}: {kind}", lambda tmp, f=f, x=x: f(x, tmp), slow=place in DEAR and kind not in FEW)
    for place, f in (PLACES | SLOW).items()
    for kind, x in PAYLOADS.items()
]
CASES += [
    Case("html", f"{what}: {kind}", lambda tmp, f=f, x=x: f(x), "refused", ("name",))
    for what, f in {
        "name of a concept": lambda x: Concept(bb(), x),
        "name in words": lambda x: TextPrompt(bb(), x, "a red dog"),
    }.items()
    for kind, x in PAYLOADS.items()
]
FORMULAS = ("$\\frac", "a $5 kite and a $6 kite", "$$", "\\$", "${x}$")  # what matplotlib would read as mathematics
CASES += [
    Case("html", f"title of pictures: {x}", lambda tmp, x=x: png_of(picture_grid([np.zeros((8, 8, 3))], [x])))
    for x in FORMULAS
]


def png_of(fig):
    from omnipersona.widgets.run_pictures import figure_png

    return len(figure_png(fig)) > 100
