"""Ordinary pictures through the whole pipeline.

The tiny model has never seen photographs: that it runs is all that is claimed."""

import shutil

import numpy as np
import pytest
import torch
from helpers import QUICK, SHORT, unchanged, weights
from PIL import Image

from omnipersona.concept.concept import Concept
from omnipersona.concept.learn import learn
from omnipersona.concept.persona import Persona
from omnipersona.data import ConceptData
from omnipersona.pictures import list_images, load_image

VARIANTS = ["rotated.jpg", "alpha.png", "grey.jpg", "palette.gif", "cmyk.jpg", "phone.jpg", "ribbon.webp"]


def variants(photo, d):
    "One photo in the ways that people's files come."
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(d / "rotated.jpg", exif=exif, quality=95)
    a = photo.convert("RGBA")
    a.putalpha(Image.linear_gradient("L").resize(a.size))
    a.save(d / "alpha.png")
    photo.convert("L").save(d / "grey.jpg")
    photo.quantize(64).save(d / "palette.gif")
    photo.convert("CMYK").save(d / "cmyk.jpg")
    photo.resize((4000, 3000)).save(d / "phone.jpg", quality=60)
    photo.crop((0, 0, photo.width, photo.height // 4)).save(d / "ribbon.webp")


@pytest.fixture
def folder(shared, tmp_path):
    d = tmp_path / "dog"
    shutil.copytree(
        shared / "photos" / "dog6",
        d,
        ignore=lambda _, names: [n for n in names if not n.lower().endswith((".jpg", ".png"))],
    )
    variants(load_image(list_images(d)[0], max_side=512), d)
    return d


def test_variants_are_the_same_picture(folder):
    "In whatever way a photo was stored, it comes back upright, in colour, and in its own shape."
    data = ConceptData.from_folder(folder)
    files = list_images(folder)
    assert len(data.images) == len(files) >= 5 + len(VARIANTS) and all(im.mode == "RGB" for im in data.images)
    by = {f.name: im for f, im in zip(files, data.images)}
    photo = load_image(files[0], max_side=512)
    for n in ("rotated.jpg", "cmyk.jpg", "palette.gif"):
        assert by[n].size == photo.size
        apart = np.abs(np.asarray(by[n], float) - np.asarray(photo, float)).mean()
        assert apart < 12, (n, apart)
    assert np.ptp(np.asarray(by["grey.jpg"], int), axis=-1).max() <= 2
    assert by["ribbon.webp"].size == (photo.width, photo.height // 4)
    assert by["phone.jpg"].size == (2048, 1536)  # 4000 x 3000 pixels, made smaller
    with Image.open(files[0]) as original:
        assert max(original.size) > 2048 or by[files[0].name].size == original.size


def test_the_whole_pipeline(bb, folder, tmp_path):
    before = weights(bb.model)
    data = ConceptData.from_folder(folder, facts=dict(toy="a red kite", home="the beach"))
    concept = learn(bb, data, "Rex-1", recipe=SHORT, progress=False)
    assert concept.summary["steps"] == 6 and torch.isfinite(concept.embeddings).all()
    concept.save_pretrained(tmp_path / "c")
    p = Persona(bb, Concept.from_pretrained(tmp_path / "c", bb))
    assert isinstance(p.ask("what is the toy of <Rex-1> ?", max_new_tokens=4).text, str)
    for n in VARIANTS:
        r = p.ask("is <Rex-1> in the photo ?", folder / n, max_new_tokens=3)
        assert isinstance(r.text, str) and 0 <= r.probability <= 1
    assert p.generate("a photo of <Rex-1> at the beach", sampling=QUICK).image.size == (64, 64)
    for n in ("phone.jpg", "alpha.png", "ribbon.webp"):
        assert p.edit("change the background to the beach", folder / n, sampling=QUICK).image.size == (64, 64)
    assert unchanged(bb.model, before)


@pytest.mark.parametrize("kind", ["cat2", "teapot", "backpack"])
def test_other_folders_are_read(shared, kind):
    d = ConceptData.from_folder(shared / "photos" / kind)
    assert len(d.images) >= 3 and d.captions[0] == "a photo of <sks>"
