"""The concept studio without a front end: boxes are filled, buttons clicked, texts and pictures read back.

All of it also holds under Colab's ipywidgets 7 (`make test-colab`)."""

import base64
import io
import re
import time
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ipywidgets")
from helpers import SHORT
from PIL import Image

from omnipersona.basics import OmniError
from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn
from omnipersona.concept.losses import Recipe
from omnipersona.concept.persona import Persona
from omnipersona.concept.sampling import SamplesPerStep
from omnipersona.pictures import png_bytes
from omnipersona.toyworld.scenery import PLACES
from omnipersona.widgets import studio as studio_module
from omnipersona.widgets.forms import concept_zip, designed, facts_from, open_concept, recipe_from, recipe_values
from omnipersona.widgets.run_pictures import contact_sheet, token_paths
from omnipersona.widgets.studio import ConceptStudio

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def s(bb, tmp_path):
    s = ConceptStudio(bb, "maeve", SHORT, every=3, folder=tmp_path / "kept", report=False)
    s.sources["design a character"].n.value = 2
    s.facts.rows[0][1].value = "a red kite"
    return s


def give(upload, files):
    "Files into an upload button, as the browser's side of this ipywidgets does it."
    about = [dict(name=name, type="", size=len(content)) for name, content in files]
    if hasattr(upload, "_counter"):  # 7
        upload.metadata = [a | dict(lastModified=0) for a in about]
        upload.data = [content for _, content in files]
        upload._counter += 1
    else:
        day = datetime(2026, 1, 1)
        contents = [memoryview(content) for _, content in files]
        upload.value = tuple(a | dict(last_modified=day, content=c) for a, c in zip(about, contents))


def after_step(step, do):
    "Callbacks of `learn`: one that does something after a step."

    def callback(learner):
        if learner.global_step == step:
            do()

    return [callback]


# ---- what a form says ---------------------------------------------------------------------------------------------
def test_a_recipe_survives_the_form(s):
    r = Recipe(steps=7, learning_rate=0.5, routing="coupled", samples=SamplesPerStep(draw=3, shift=2.0))
    assert recipe_from(recipe_values(r)) == r and s.form.value == SHORT


@pytest.mark.parametrize(
    "bad",
    [
        dict(steps=0),
        dict(learning_rate=0),
        dict(learning_rate=float("nan")),
        dict(steps="many"),
        dict(routing="both"),
        dict(no=1),
        {f"samples.{k}": 0 for k in "recognise vqa facts draw edit".split()},
    ],
)
def test_a_recipe_that_cannot_train_is_refused_by_name(bad):
    with pytest.raises(OmniError, match=next(iter(bad)).split(".")[0]):
        recipe_from(bad)


def test_facts():
    assert facts_from([(" toy ", " a red kite "), ("home", " "), ("", "")]) == {"toy": "a red kite"}
    for rows in ([("", "a red kite")], [("toy", "a"), ("toy", "b")]):
        with pytest.raises(OmniError, match="facts"):
            facts_from(rows)


def test_a_home_everywhere_is_refused():
    with pytest.raises(OmniError, match="every place"):
        designed({}, {p: f"the {p}" for p in PLACES}, 2)


def test_zip_and_back_and_no_other_file_gets_out(bb, concept, tmp_path):
    z = concept_zip(concept)
    (tmp_path / "maeve.zip").write_bytes(z)
    for source in (z, tmp_path / "maeve.zip"):
        assert torch.equal(open_concept(bb, source).embeddings, concept.embeddings)
    bad = io.BytesIO()
    with zipfile.ZipFile(bad, "w") as f:
        f.writestr("../../escaped.txt", "x")
        f.writestr("/tmp/concept.json", "{}")
    for source, why in (
        (bad.getvalue(), "missing"),
        (z[:200], "not a readable zip"),
        (b"", "zip"),
        (tmp_path / "nowhere", "no such folder"),
    ):
        with pytest.raises(OmniError, match=why):
            open_concept(bb, source)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_tokens_that_rest_stay_and_one_that_moves_moves():
    a = np.random.default_rng(0).normal(size=(5, 8))
    b = a.copy()
    b[2] += 1
    xy = token_paths([a, a, b])
    far = np.abs(xy[2] - xy[0]).max(-1)
    assert np.allclose(xy[0], xy[1]) and far[2] > 1 and np.allclose(np.delete(far, 2), 0)


# ---- training -----------------------------------------------------------------------------------------------------
def test_it_learns_what_learn_learns(s, bb):
    "Watching changes nothing: the same rows, bit for bit."
    s.train_button.click()
    data = designed(s.sources["design a character"].traits, {"toy": "a red kite"}, 2)[1]
    alone = learn(bb, data, "maeve", recipe=SHORT, progress=False)
    assert torch.equal(s.concept.embeddings, alone.embeddings) and "learnt: 6 steps" in s.said.text
    assert [k for k, _ in s.concept.previews] == [1, 3, 6]
    assert all(bytes(i.value).startswith(b"\x89PNG") for i in s.watch.images.values())
    assert s.watch.bar.value == s.watch.bar.max == 6
    assert s.train_button.disabled is False and s.stop_button.disabled is True


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_stop_and_interrupt_keep_what_was_learnt(s, how):
    def interrupt():
        raise KeyboardInterrupt

    s.train(callbacks=after_step(2, s.stop_button.click if how == "stop" else interrupt))
    assert s.concept.summary["steps"] == 2 and s.concept.summary["stopped"]
    assert "what was learnt is kept" in s.said.text and not s.busy and s.watch.bar.value == 2
    s.tryout.buttons["Ask"].click()
    assert "probability" in s.tryout.said["Ask"].text


def test_an_interrupt_before_the_first_step_changes_nothing(s, monkeypatch):
    s.train()
    kept = s.concept

    def interrupted(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(studio_module, "learn", interrupted)
    s.train_button.click()
    assert s.concept is kept and "interrupted" in s.said.text and not s.busy and not s.train_button.disabled


def test_nothing_else_runs_while_it_trains(s):
    buttons = [s.train_button, s.save_button, s.load_button, s.check_button, *s.tryout.buttons.values()]
    s.train(callbacks=after_step(2, lambda: [button.click() for button in buttons]))
    assert s.concept.summary["steps"] == 6 and not s.tryout.results and not s.kept.text


def test_a_stopped_run_goes_on_from_its_checkpoint(s, bb, tmp_path):
    s.checkpoints.value = str(tmp_path / "run")
    s.train(callbacks=after_step(2, s.stop_button.click))
    s.train()
    again = ConceptStudio(bb, "maeve", SHORT, every=0, report=False)
    again.sources["design a character"].n.value = 2
    again.facts.rows[0][1].value = "a red kite"
    again.train()
    assert s.concept.summary["steps"] == 6 and torch.equal(s.concept.embeddings, again.concept.embeddings)


# ---- slips --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "slip, said",
    [
        (lambda s: setattr(s.name, "value", EVIL), "not a name"),
        (lambda s: setattr(s.name, "value", ""), "not a name"),
        (lambda s: setattr(s.source, "value", "upload"), "no pictures"),
        (lambda s: setattr(s.source, "value", "a folder"), "no folder"),
        (
            lambda s: (
                setattr(s.source, "value", "a folder"),
                setattr(s.sources["a folder"].path, "value", "/no/where"),
            ),
            "/no/where: no such folder",
        ),
        (lambda s: setattr(s.facts.rows[1][1], "value", EVIL), "no such concept"),
        (lambda s: setattr(s.facts.rows[1][1], "value", "a zeppelin"), "does not know"),
        (lambda s: setattr(s.form.boxes["steps"], "value", 0), "steps=0"),
        (lambda s: setattr(s.form.boxes["n_gen"], "value", 9999), "9999|tokens"),
    ],
)
def test_a_slip_is_said_in_place_and_nothing_is_lost(s, slip, said, concept):
    give(s.file, [("maeve.zip", concept_zip(concept))])
    kept = s.concept
    slip(s)
    s.train_button.click()
    assert s.said.bad and re.search(said, s.said.text) and "<img" not in s.said.widget.value
    assert s.concept is kept and not s.busy
    s.save_button.click()
    assert not s.kept.bad


def test_before_anything_is_learnt(s):
    tabs = [(s.tryout.buttons[k], s.tryout.said[k]) for k in ("Ask", "Draw", "Edit")]
    for b, line in [(s.save_button, s.kept), (s.load_button, s.kept), *tabs]:
        assert b.disabled or b is s.load_button
        b.click()
        assert line.bad and line.text
    assert "nothing is learnt yet" in s.static().data


# ---- pictures, keeping, trying ------------------------------------------------------------------------------------
def test_uploads_are_learnt_from_and_a_wrong_file_is_named(s):
    s.source.value = "upload"
    files = [(f"{c}.png", png_bytes(Image.new("RGB", (90, 70), c))) for c in ("red", "teal")]
    upload = s.sources["upload"]
    give(upload.files, [*files, (f"{EVIL}.png", b"no picture")])
    assert upload.note.bad and f"{EVIL}.png" in upload.note.text and "<img" not in upload.note.widget.value
    s.check_button.click()
    assert "2 pictures, 1 facts" in s.said.text and "Few pictures" in s.said.text
    s.train()
    assert len(s.data.images) == 2 and s.concept.facts == {"toy": "a red kite"}


def test_pictures_keep_their_shape_on_the_way_in_and_on_the_screen(s):
    s.source.value = "upload"
    wide = Image.new("RGB", (90, 60), "teal")
    give(s.sources["upload"].files, [("wide.png", png_bytes(wide))])
    assert s.inputs.gather()[1].images[0].size == (90, 60)
    sheet = Image.open(io.BytesIO(contact_sheet([wide], side=90)))
    assert sheet.getpixel((94, 94)) == (*wide.getpixel((0, 0)), 255) and sheet.getpixel((94, 8))[3] == 0


def test_a_folder_is_learnt_from(s, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    s.source.value = "a folder"
    s.sources["a folder"].path.value = str(tmp_path)
    s.train()
    assert len(s.data.images) == 1 and s.concept.summary["steps"] == 6


def test_save_load_and_zip_give_the_same_concept(s, bb):
    s.train()
    rows = s.concept.embeddings.clone()
    s.save_button.click()
    assert "saved" in s.kept.text
    s.load_button.click()
    assert torch.equal(s.concept.embeddings, rows) and "loaded" in s.kept.text and s.tryout.about.offered
    other = ConceptStudio(bb)
    give(other.file, [("maeve.zip", concept_zip(s.concept))])
    assert torch.equal(other.concept.embeddings, rows)
    assert "download='maeve.zip'" in other.link.value
    give(other.file, [("x.zip", b"nothing")])
    assert other.kept.bad and "x.zip" in other.kept.text and torch.equal(other.concept.embeddings, rows)


def test_a_new_name_is_the_concepts_and_a_loaded_concept_names_the_form(s, bb, tmp_path):
    s.train()
    s.name.value = "luna"
    s.save_button.click()
    kept = tmp_path / "kept" / "luna"
    assert Concept.from_pretrained(kept, bb).name == "luna" and list(s.persona.concepts.items) == ["luna"]
    assert "<luna>" in s.tryout.question.value and "luna" in s.tryout.chips["Ask"].children[0].description
    s.name.value = "my cat"  # no name: nothing changes, and it is said at the field
    assert s.concept.name == "luna" and s.inputs.notes["name"].bad
    other = ConceptStudio(bb, "nobody", report=False)
    other.path.value = str(kept)
    other.load_button.click()
    assert other.name.value == "luna" == other.concept.name


def test_load_brings_facts_and_design_back(s, bb):
    s.sources["design a character"].look["species"].value = "teapot"
    s.sources["design a character"].n.value = 3
    s.sources["design a character"].strip.drop(1)
    s.train()
    s.save_button.click()
    other = ConceptStudio(bb, "nobody", report=False)
    other.path.value = s.path.value
    other.load_button.click()
    assert other.facts.value == {"toy": "a red kite"} and "its design came with it" in other.kept.text
    assert other.sources["design a character"].traits["species"] == "teapot"
    assert [p.tobytes() for p in other.album.images] == [p.tobytes() for p in s.data.images] and len(s.data.images) == 2
    assert "an unseen photo" in other.tryout.about.offered


@pytest.mark.parametrize("how", ["folder", "zip"])
@pytest.mark.parametrize("kept", [True, False])
def test_load_brings_uploads_back_if_they_were_kept(s, bb, how, kept):
    s.source.value = "upload"
    give(s.sources["upload"].files, [(f"{c}.png", png_bytes(Image.new("RGB", (64, 64), c))) for c in ("red", "teal")])
    s.storage.with_pictures.value = kept
    s.train()
    s.save_button.click()
    other = ConceptStudio(bb, "nobody", report=False)
    if how == "zip":
        href = re.search("base64,([^']+)'", s.link.value)[1]
        give(other.file, [("maeve.zip", base64.b64decode(href))])
    else:
        other.path.value = s.path.value
        other.load_button.click()
    assert other.facts.value == {"toy": "a red kite"}
    assert len(other.sources["upload"].pictures) == (2 if kept else 0)
    assert [p.getpixel((0, 0)) for p in other.album.images] == ([(255, 0, 0), (0, 128, 128)] if kept else [])


def test_uploads_are_added_dropped_and_brought_back(s):
    s.source.value, upload = "upload", s.sources["upload"]
    files = [(f"{c}.png", png_bytes(Image.new("RGB", (64, 64), c))) for c in ("red", "teal", "gold")]
    for some in (files[:1], files):
        give(upload.files, some)
    assert len(upload.pictures) == 3 and "were here already" in upload.note.text
    upload.strip.cells[1][2].click()
    assert len(s.inputs.gather()[1].images) == 2
    upload.strip.undo_button.click()
    assert len(s.inputs.gather()[1].images) == 3
    for cell in upload.strip.cells:
        cell[2].click()
    s.check_button.click()
    assert s.said.bad and "undo" in s.said.text


def test_all_problems_are_said_at_once_each_at_its_field(s):
    s.name.value, s.form.steps.value = "my cat", "-5"
    for row, fact in ((1, "pizza"), (2, "a zeppelin")):
        s.facts.rows[row][1].value = fact
    for button in (s.check_button, s.train_button):  # the same problems
        button.click()
        assert all(part in s.said.text for part in ("my cat", "-5", "pizza", "zeppelin")), s.said.text
        assert s.inputs.notes["name"].bad and s.form.steps.note.bad
        assert [line.note.bad for line in s.facts.lines] == [False, True, True, False, False]
        s.said("")
    assert s.facts.rows[1][1].value == "pizza" and s.form.steps.box.value == "-5"


@pytest.mark.parametrize("typed", ["0", "-5", "1e9", "", "many", "3.5"])
def test_steps_keep_what_was_typed_and_are_refused(s, typed):
    s.form.steps.box.value = typed
    assert s.form.steps.note.bad and "write a whole number from 1 to 100,000" in s.form.steps.note.text
    s.train_button.click()
    assert s.concept is None and s.said.bad and s.form.steps.box.value == typed


def test_nothing_stale_is_left_on_the_page(s):
    "Neither 'reading the pictures' during a run, nor 'saved' or an answer of the concept before after it."
    s.train()
    s.save_button.click()
    assert "saved" in s.kept.text
    heard = []
    s.train(callbacks=after_step(3, lambda: heard.append((s.said.text, s.kept.text))))
    assert heard == [("", "")] and not s.kept.text


def test_a_drawing_says_how_far_it_is_and_appears_step_by_step(s):
    s.train()
    t, lines, pictures = s.tryout, [], []
    t.said["Draw"].widget.observe(lambda _: lines.append(t.said["Draw"].text), "value")
    t.images["Draw"].observe(lambda c: pictures.append(bytes(c["new"])), "value")
    t.buttons["Draw"].observe(lambda c: lines.append(c["new"]), "disabled")
    t.buttons["Draw"].click()
    assert any(re.search(r"drawing, step \d+ of \d+", str(line)) for line in lines) and len(pictures) > 1
    assert lines.index(True) < lines.index(False) and len(t.history.entries) == 1


def test_an_example_is_one_click_and_enter_asks_again(s):
    s.train()
    t = s.tryout
    t.chips["Ask"].children[0].click()
    assert "toy" in t.question.value and "probability" in t.said["Ask"].text
    t.question.value = "what is the toy of maeve?"
    t.question._handle_custom_msg(dict(event="submit"), [])
    assert "<maeve>" in t.understood["Ask"].line.text and len(t.history.entries) == 2
    t.understood["Ask"].buttons.children[0].click()  # correct it
    assert "<maeve>" in t.question.value


def test_curves_go_on_between_previews_and_begin_with_two_points(bb, tmp_path):
    s = ConceptStudio(bb, "maeve", SHORT, every=0, folder=tmp_path, report=False)
    s.sources["design a character"].n.value, s.facts.rows[0][1].value = 2, "a red kite"
    drawn, losses = [], s.watch.images["losses"]

    def wait_no_longer(learner):
        s.watch.drawn_at = 0.0  # as if five seconds had passed
        drawn.append(losses.layout.display != "none")

    s.train(callbacks=[wait_no_longer])
    assert drawn[:3] == [False, False, True] and all(drawn[2:])  # a callback is called before the view looks


def test_one_click_shows_the_maps_of_the_last_drawing(s, bb, concept):
    t, heard = s.tryout, []
    assert t.inside.button.disabled
    t.use(Persona(bb, concept), "maeve", {}, {})
    t.prompt.value, t.seed.value = "a photo of maeve at the moon", 3
    t.buttons["Draw"].click()
    t.inside.said.widget.observe(lambda _: heard.append(t.inside.said.text), "value")
    t.inside.button.click()
    (maps,) = t.inside.explorer.results.values()
    assert maps.request == "a photo of <maeve> at the moon"
    assert maps.picture.tobytes() == t.results["Draw"].image.tobytes()
    assert heard[0].startswith("drawing it once more") and not t.inside.said.text
    assert "reads most" in t.inside.explorer.notes[0].value
    t.use(Persona(bb, concept), "maeve", {}, {})
    assert not t.inside.box.children  # of another concept


def test_a_concept_that_is_called_red_can_be_asked_about(s):
    "Left without brackets, the name is the colour, until the student says that it is the concept."
    s.name.value = "red"  # instructions of its edits say red, too, and mean the colour
    s.train()
    assert s.concept.name == "red", s.said.text
    t = s.tryout
    t.buttons["Ask"].click()
    assert "probability" in t.said["Ask"].text and "<red>" in t.question.value
    t.question.value = "is there a red ball ?"
    t.buttons["Ask"].click()
    assert "probability" in t.said["Ask"].text and t.results["Ask"].request == "is there a red ball ?"
    t.understood["Ask"].buttons.children[0].click()  # red is <red>
    t.question.value = "what is the toy of red ?"
    t.buttons["Ask"].click()
    assert "probability" in t.said["Ask"].text and t.results["Ask"].request == "what is the toy of <red> ?"


def test_every_box_has_a_label(s):
    "What a screen reader says: a label, or a tooltip for a button without a text."
    import ipywidgets as w

    def walk(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from walk(child)

    for widget in walk(s.widget):
        if isinstance(widget, w.Button):
            assert widget.description or widget.tooltip, widget
        elif isinstance(widget, (w.Text, w.Dropdown, w.Checkbox, w.IntProgress, w.ToggleButtons, w.FloatSlider)):
            assert widget.description, widget
        assert getattr(widget, "tooltip", "") is not None and getattr(widget, "description_tooltip", "") is not None


def test_ask_draw_and_edit(s):
    s.train()
    t = s.tryout
    t.about.which.value = "an unseen photo"
    for b in t.buttons.values():
        b.click()
    assert set(t.results) == {"Ask", "Draw", "Edit", "before"}
    assert bytes(t.images["Edit"].value) != bytes(t.images["before"].value)
    first = bytes(t.images["Draw"].value)
    t.seed.value = 1
    t.buttons["Draw"].click()
    assert bytes(t.images["Draw"].value) != first


def test_a_drawing_can_be_asked_about_and_edited(s, bb, concept):
    "Also where a concept was loaded without pictures."
    t = s.tryout
    t.use(Persona(bb, concept), "maeve", {})
    assert t.source.get_or_none() is None
    t.texts["Draw"].value = "a photo of <maeve> at the beach"
    t.buttons["Draw"].click()
    drawn = t.results["Draw"].image
    assert t.source.which.value == "drawing 1" and t.source.get() is drawn
    assert t.about.get_or_none() is None and "drawing 1" in t.about.which.options  # what was chosen stays


def test_static_says_all_and_markup_is_text(s, bb, tmp_path):
    s.train()
    for b in s.tryout.buttons.values():
        b.click()
    h = s.static().data
    assert h.count("data:image/png") == 7 and "&lt;maeve&gt;" in h and "a red kite" in h and "http" not in h
    Concept(bb, "rex", facts={EVIL: EVIL}).save_pretrained(tmp_path / "rex")
    s.path.value = str(tmp_path / "rex")
    s.load_button.click()
    h = s.export(tmp_path / "x.html").read_text()
    assert "&lt;rex&gt;" in h and h.count("&lt;img") == 2 and "<img src=x" not in h


def test_a_shared_page_shows_facts_and_pictures_only_if_ticked(s, tmp_path):
    s.sharing.button.click()
    assert s.sharing.said.bad and "nothing is learnt" in s.sharing.said.text
    s.train()
    pages = []
    for ticked in (False, True):
        s.sharing.facts.value = s.sharing.pictures.value = ticked
        s.sharing.button.click()
        pages.append(Path(s.sharing.said.text.removeprefix("shared: ")).read_text())
        (link,) = re.findall(r"href='data:text/html;base64,([^']*)'", s.sharing.link.value)
        assert base64.b64decode(link).decode() == pages[-1]  # it can be downloaded from a kernel far away
    assert "a red kite" not in pages[0] and "a red kite" in pages[1]
    assert pages[1].count("data:image") > pages[0].count("data:image") > 0


def test_the_folder_follows_the_name_until_it_is_chosen(s, tmp_path):
    s.name.value = "rex"
    assert s.path.value == str(tmp_path / "kept" / "rex")
    s.path.value = "elsewhere"
    s.name.value = "tom"
    assert s.path.value == "elsewhere"


# ---- clicks that arrive while the kernel is busy ------------------------------------------------------------------
SETUP = """import ipywidgets, time
from omnipersona.widgets.kernel_events import listening
b, other, clicks, seen = ipywidgets.Button(), ipywidgets.Button(), [], []
b.on_click(clicks.append); other.on_click(lambda _: seen.append(len(clicks)))
print(b.model_id, other.model_id)"""
LOOP = """with listening(b) as poll:
    for n in range(600):
        poll()
        if clicks: break
        time.sleep(.05)
print('heard' if clicks else 'deaf', seen)"""


def test_a_busy_kernel_hears_the_named_button_and_loses_nothing_else():
    jc = pytest.importorskip("jupyter_client.manager")
    km, kc = jc.start_new_kernel(kernel_name="python3")

    def out(cell):
        "What a cell printed, once it is done."
        text = ""
        while True:
            m = kc.get_iopub_msg(timeout=60)
            if m["parent_header"].get("msg_id") != cell:
                continue
            if m["msg_type"] == "stream" and m["content"]["name"] == "stdout":
                text += m["content"]["text"]
            assert m["msg_type"] != "error", m["content"]
            if m["msg_type"] == "status" and m["content"]["execution_state"] == "idle":
                return text.strip()

    def click(button):
        message = dict(comm_id=button, data=dict(method="custom", content=dict(event="click")))
        kc.shell_channel.send(kc.session.msg("comm_msg", message))

    try:
        b, other = out(kc.execute(SETUP)).split()
        loop = kc.execute(LOOP)
        first = kc.execute('print("first", len(seen))')
        click(other)
        second = kc.execute('print("second")')
        time.sleep(1)
        click(b)
        assert out(loop) == "heard []"  # the other button's click waits
        assert out(first).startswith("first") and out(second) == "second"  # in the order in which they were sent
        assert out(kc.execute("time.sleep(.5); print(seen)")) == "[1]"
    finally:
        kc.stop_channels()
        km.shutdown_kernel(now=True)
