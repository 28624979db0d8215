"""The training pictures' bytes, names and metadata, searched for in everything that leaves the session.

The pictures are noise, so that a run of their bytes is found nowhere by chance. Names and metadata hold a rare word."""

import base64
import io
import json
import re
import zipfile
import zlib
from functools import cache

import numpy as np
from PIL import Image, PngImagePlugin

from omnipersona.basics import OmniError
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona
from omnipersona.data import ConceptData
from omnipersona.inside.concept_maps import concept_maps
from omnipersona.model.flow import SamplingConfig
from omnipersona.pictures import load_image, png_bytes
from omnipersona.widgets.attention_explorer import AttentionExplorer
from omnipersona.widgets.forms import concept_zip
from omnipersona.widgets.studio import ConceptStudio
from trust.corpus import Case, Tally
from trust.material import bb, noise

RARE = "Quillfeather"  # stands in names, folders and metadata, and nowhere else
QUICK = SamplingConfig(3, 2.0, 1.0)


def exif():
    e = Image.Exif()
    e[0x010E], e[0x010F], e[0x0110], e[0x013B] = (
        f"{RARE} at home",
        RARE,
        f"{RARE} 12",
        RARE,
    )  # text, maker, model, artist
    e[0x0132], e[0x9286] = "2026:01:01 10:00:00", f"{RARE} comment".encode()
    e.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})  # where
    return e


def profile():
    "A colour profile whose description holds the rare word, as a scanner's does."
    from PIL import ImageCms

    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for word in (b"sRGB", "sRGB".encode("utf-16-be")):
        at = raw.find(word)
        if at > 0:
            break
    raw += RARE.encode()
    raw[0:4] = len(raw).to_bytes(4, "big")
    return bytes(raw)


def pngs_text():
    t = PngImagePlugin.PngInfo()
    t.add_text("Author", RARE)
    t.add_itxt("XML:com.adobe.xmp", f"<x:xmpmeta>{RARE}</x:xmpmeta>")
    return t


def write_photos(folder):
    "Four files with all the metadata that their formats take."
    folder.mkdir(parents=True, exist_ok=True)
    e = exif().tobytes()
    noise(0).save(folder / f"{RARE}_0.jpg", quality=92, exif=e, icc_profile=profile(), comment=RARE.encode())
    noise(1).save(folder / f"{RARE}_1.png", exif=e, pnginfo=pngs_text(), icc_profile=profile())
    noise(2).save(folder / f"{RARE}_2.webp", exif=e, xmp=f"<x>{RARE}</x>".encode(), quality=90)
    noise(3).save(folder / f"{RARE}_3.tif", exif=exif(), icc_profile=profile())
    return sorted(folder.iterdir())


def pieces(raw):
    "Bytes of a file that could not stand anywhere by chance."
    return [raw[at : at + 24] for at in (len(raw) // 3, len(raw) // 2, 2 * len(raw) // 3)]


def needles(files):
    "{what it is: bytes}"
    found = {
        "the rare word": RARE.encode(),
        "in 16 bits": RARE.encode("utf-16-le"),
        "16, other": RARE.encode("utf-16-be"),
    }
    for f in files:
        found |= {f"bytes of {f.suffix} {i}": p for i, p in enumerate(pieces(f.read_bytes()))}
        pixels = np.asarray(Image.open(f).convert("RGB"))
        found |= {f"pixels of {f.suffix} {i}": pixels[i, 5:29].tobytes() for i in (7, 100, 200)}
    return found


def layers(raw, depth=3):
    "What is inside: zip members, base64, the pixels and texts of PNG files."
    yield raw
    if not depth:
        return
    if raw[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(raw)) as z:
            for name in z.namelist():
                yield name.encode()
                yield from layers(z.read(name), depth - 1)
    for text in re.findall(rb"[A-Za-z0-9+/]{60,}={0,2}", raw):
        try:
            yield from layers(base64.b64decode(text + b"=" * (-len(text) % 4)), depth - 1)
        except ValueError:
            pass
    if raw[:8] == b"\x89PNG\r\n\x1a\n":
        image = Image.open(io.BytesIO(raw))
        yield np.asarray(image.convert("RGB")).tobytes()
        yield repr(image.info).encode()
    for at in (m.start() for m in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", raw[:4000])):
        try:
            yield zlib.decompressobj().decompress(raw[at:], 10_000_000)
        except zlib.error:
            pass


def leaks(files, *things):
    "How many needles are in some bytes, or in the files and names of folders."
    wanted, found = needles(files), []
    for thing in things:
        raws = [thing] if isinstance(thing, bytes) else [p.read_bytes() for p in thing.rglob("*") if p.is_file()]
        if not isinstance(thing, bytes):
            raws += [p.name.encode() for p in thing.rglob("*")]
        for raw in raws:
            for inner in layers(raw):
                found += [what for what, needle in wanted.items() if needle in inner]
    assert not found, f"found {sorted(set(found))}"
    return Tally(leaks=len(found))


@cache
def learnt(folder):
    "(files, data, concept): learnt from a folder, with checkpoints."
    files = write_photos(folder / RARE)
    data = ConceptData.from_folder(folder / RARE, facts={"toy": "a red kite"})
    from helpers import SHORT

    out = folder / "run"
    concept = learn(bb(), data, "maeve", recipe=SHORT, progress=False, output_dir=out, save_steps=2, preview=3)
    return files, data, concept, out


@cache
def _home():
    import tempfile
    from pathlib import Path

    return Path(tempfile.mkdtemp(prefix="omnipersona-trust-"))


def material():
    return learnt(_home())


def saved(tmp):
    files, _, concept, _ = material()
    return leaks(files, concept.save_pretrained(tmp / "maeve"))


def checkpoints(tmp):
    files, _, _, out = material()
    assert any(out.rglob("*.safetensors"))
    return leaks(files, out)


def zipped(tmp):
    files, _, concept, _ = material()
    return leaks(files, concept_zip(concept))


def attributes(tmp):
    "What the concept itself holds, printed and as JSON."
    files, _, concept, _ = material()
    text = repr(concept) + json.dumps([concept.summary, concept.facts, concept.history], default=str)
    previews = [png_bytes(p) for _, p in concept.previews]
    return leaks(files, text.encode(), *previews)


def loaded(tmp):
    "A picture that was read holds no metadata, and hands none on to what is saved from it."
    files = material()[0]
    for i, f in enumerate(files):
        image = load_image(f)
        assert not image.getexif() and RARE not in repr(image.info) and RARE not in repr(vars(image)), image.info
        for suffix in ("png", "jpg", "webp", "tif"):
            image.save(tmp / f"{i}.{suffix}")
            raw = (tmp / f"{i}.{suffix}").read_bytes()
            assert RARE.encode() not in raw and b"GPS" not in raw, suffix
        assert RARE.encode() not in png_bytes(image)
    return True


def results(tmp):
    "Answers, drawings, edits: their texts, their pictures."
    files, data, concept, _ = material()
    p = Persona(bb(), concept)
    r = [p.ask("is <maeve> in the photo ?", files[0], 2), p.generate("a photo of <maeve>", sampling=QUICK)]
    r.append(p.edit("move <maeve> to the left", files[0], sampling=QUICK))
    return leaks(files, *(repr(x).encode() for x in r), *(png_bytes(x.image) for x in r[1:]))


def maps_page(tmp):
    files, _, concept, _ = material()
    maps = concept_maps(Persona(bb(), concept), "a photo of <maeve>", 0, QUICK)[1]
    return leaks(files, AttentionExplorer(maps).export_html(tmp / "x.html").read_bytes())


def studio(tmp):
    "A studio that has learnt from uploaded files."
    from datetime import datetime

    from helpers import SHORT

    files = material()[0]
    s = ConceptStudio(bb(), "maeve", SHORT, every=3, folder=tmp / "kept")
    s.source.value = "upload"
    day = datetime(2026, 1, 1)
    about = [(f.name, f.read_bytes()) for f in files[:3]]
    s.sources["upload"].files.value = tuple(
        dict(name=n, type="image/jpeg", size=len(c), content=memoryview(c), last_modified=day) for n, c in about
    )
    s.check_button.click()
    s.train_button.click()
    assert s.concept is not None, s.said.text
    return files, s


def studio_page(tmp):
    files, s = studio(tmp)
    return leaks(files, s.export(tmp / "x.html").read_bytes(), s.static().data.encode())


def states():
    "The state of all widgets, as a front end saves it into the notebook."
    import ipywidgets as w

    for widget in list(w.Widget.widgets.values() if hasattr(w.Widget, "widgets") else w.widget._instances.values()):
        yield widget.model_id, widget.get_state()


def flat(x):
    "All bytes of a state."
    if isinstance(x, (bytes, memoryview)):
        return [bytes(x)]
    if isinstance(x, dict):
        return [b for v in x.values() for b in flat(v)]
    if isinstance(x, (list, tuple)):
        return [b for v in x for b in flat(v)]
    return [str(x).encode()]


def widget_state(tmp):
    files, s = studio(tmp)
    assert len(s.sources["upload"].button.files) == 3
    return leaks(
        files, b"\n".join(b for _, state in states() for b in flat(state)), *(b for _, st in states() for b in flat(st))
    )


def notebook(tmp):
    "A notebook with the studio's state, an error that names a file, and outputs; cleaned as ours are."
    import house
    import nbformat

    files, s = studio(tmp)
    state = {i: {k: str(v) for k, v in st.items()} | {"path": str(files[0])} for i, st in states()}
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("studio")])
    nb.metadata["widgets"] = {house.WIDGET.replace("view", "state"): dict(state=state)}
    nb.cells[0].outputs = [
        nbformat.v4.new_output("display_data", {house.WIDGET: dict(model_id="x"), "text/html": s.static().data}),
        nbformat.v4.new_output("stream", name="stderr", text=f"{files[0]}: loading"),
        nbformat.v4.new_output("execute_result", {"text/plain": repr(s.concept)}),
    ]
    return leaks(files, house.cleaned(nbformat.writes(nb)).encode())


def without_facts(tmp):
    "facts=False writes none."
    import inspect

    concept = material()[2]
    if "facts" not in inspect.signature(concept.save_pretrained).parameters:
        raise OmniError("save_pretrained has no facts=False")
    folder = concept.save_pretrained(tmp / "maeve", facts=False)
    raw = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    return b"red kite" not in raw and b'"toy"' not in raw


def the_search_finds(tmp):
    "The search itself: each kind of leak, made on purpose, is found."
    files = material()[0]
    plain = f"<img src='data:image/jpeg;base64,{base64.b64encode(files[0].read_bytes()).decode()}'>".encode()
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a.png", files[1].read_bytes())
    pixels = png_bytes(load_image(files[1]))
    for planted in (plain, box.getvalue(), files[2].read_bytes(), pixels, RARE.encode()):
        try:
            leaks(files, planted)
        except AssertionError:
            continue
        return False
    return True


QUICK_ONES = (saved, zipped, checkpoints, attributes, loaded, the_search_finds, without_facts)
SLOW_ONES = (results, maps_page, studio_page, widget_state, notebook)
CASES = [Case("leaks", f.__name__.replace("_", " "), f) for f in QUICK_ONES]
CASES += [Case("leaks", f.__name__.replace("_", " "), f, slow=True) for f in SLOW_ONES]
