"What people really bring: odd pictures, broken ones, data with slips, and names with markup."

import io
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from omnipersona.basics import OmniError, atomic_dir, atomic_write, check_name
from omnipersona.data import ConceptData
from omnipersona.pictures import list_images, load_image, show_images, square, to_image, to_tensor


def picture(w=90, h=60):
    "Blue, with a red rectangle at the top left."
    im = Image.new("RGB", (w, h), (40, 90, 200))
    ImageDraw.Draw(im).rectangle((0, 0, w // 3, h // 3), fill=(220, 40, 30))
    return im


def near(a, b, tol=6):
    return a.size == b.size and np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() < tol


def expect_error(src, *words, **kw):
    "The error that names the input; it must be one line, and hold every word."
    with pytest.raises(OmniError) as e:
        load_image(src, **kw)
    text = str(e.value)
    assert "\n" not in text and all(w in text for w in words), text
    return text


def png_header(w, h):
    "A PNG that claims a size and holds no pixels."
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + ihdr
        + struct.pack(">I", zlib.crc32(ihdr))
        + struct.pack(">I", 100)
        + b"IDAT"
    )


# ---- good, in every mode ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "mode,ext",
    [
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("P", "png"),
        ("P", "gif"),
        ("RGBA", "png"),
        ("YCbCr", "jpg"),
        ("LAB", "tif"),
    ],
)
def test_modes_with_colour(tmp_path, mode, ext):
    f = tmp_path / f"a.{ext}"
    (picture().quantize(8) if mode == "P" else picture().convert(mode)).save(f)
    out = load_image(f)
    assert out.mode == "RGB" and near(out, picture(), 8)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16", "I", "F"])
def test_grey_modes(tmp_path, mode):
    grey = picture().convert("L")
    a = np.asarray(grey).astype(np.float32)
    im = {
        "I;16": lambda: Image.fromarray((a * 257).astype(np.uint16)),
        "I": lambda: Image.fromarray((a * 257).astype(np.int32)),
        "F": lambda: Image.fromarray(a / 255),
    }.get(mode, lambda: grey.convert(mode))()
    f = tmp_path / "a.tif"
    im.save(f)
    out = load_image(f)
    assert out.mode == "RGB" and out.size == grey.size
    if mode in ("L", "LA", "I;16", "I"):
        assert out == grey.convert("RGB")
    else:
        assert np.ptp(np.asarray(out)) == 255  # stretched, or black and white


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    "However the phone was held, the red corner is at the top left."
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, [])
    im = picture()
    for t in undo:
        im = im.transpose(t)
    exif = Image.Exif()
    exif[0x0112] = orientation
    f = tmp_path / "a.jpg"
    im.save(f, exif=exif, quality=95)
    assert near(load_image(f), picture())


@pytest.mark.parametrize(
    "make", [lambda a: a, lambda a: a.convert("LA"), lambda a: a.quantize(16)], ids=["RGBA", "LA", "P"]
)
def test_alpha_becomes_white(tmp_path, make):
    im = picture().convert("RGBA")
    im.putalpha(Image.new("L", im.size, 0))
    f = tmp_path / "a.png"
    make(im).save(f)
    assert load_image(f) == Image.new("RGB", im.size, "white")


def test_transparent_colour_of_a_palette(tmp_path):
    im = picture().quantize(2)
    at = im.getpixel((80, 50))
    f = tmp_path / "a.png"
    im.save(f, transparency=at)
    out = load_image(f)
    assert out.getpixel((80, 50)) == (255, 255, 255) and out.getpixel((2, 2)) != (255, 255, 255)


def test_sources_agree(tmp_path):
    f = tmp_path / "a.png"
    picture().save(f)
    assert (
        load_image(f)
        == load_image(str(f))
        == load_image(f.read_bytes())
        == load_image(io.BytesIO(f.read_bytes()))
        == load_image(picture())
    )


def test_phone_size_is_made_smaller(tmp_path):
    f = tmp_path / "a.jpg"
    picture(4000, 3000).save(f)
    assert near(load_image(f, max_side=400), picture(400, 300))
    assert load_image(picture(2000, 10), max_side=100).size[1] >= 8  # a ribbon keeps some height


@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        lambda im: np.asarray(im) / 255,
        lambda im: (np.asarray(im) / 255).astype(np.float32),
        lambda im: np.dstack([np.asarray(im), np.full((im.height, im.width), 255, np.uint8)]),
        lambda im: SimpleNamespace(image=im),
    ],
    ids=["uint8", "floats", "float32", "with alpha", "an object with a picture"],
)
def test_pictures_from_code(make):
    assert load_image(make(picture())) == picture()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tensors_are_pictures(dtype):
    x = to_tensor(picture()).to(dtype)
    assert near(load_image(x), picture(), 2) and near(load_image(x * 1.05), picture(), 8)  # a little outside is cut off
    grey = np.asarray(picture().convert("L"))
    assert load_image(grey) == load_image(grey / 255) == picture().convert("L").convert("RGB")


def test_the_source_is_left_alone(tmp_path):
    im = picture()
    im.info["comment"] = "mine"
    out = load_image(im)
    out.putpixel((0, 0), (0, 0, 0))
    assert im.getpixel((0, 0)) == (220, 40, 30) and im.info == {"comment": "mine"} and out.info == {}


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture().save(tmp_path / "a.png")
    assert load_image("~/a.png") == picture() and [p.name for p in list_images("~")] == ["a.png"]
    atomic_write("~/sub/b.txt", "1")
    with atomic_dir("~/c") as d:
        (d / "x").write_text("1")
    assert (tmp_path / "sub" / "b.txt").exists() and (tmp_path / "c" / "x").exists()
    assert len(ConceptData.from_folder("~").images) == 1


ORIENTED = (0x112, 3, 1, struct.pack("<HH", 6, 0))
ODD_TAGS = {
    "resolution as text": [ORIENTED, (0x11A, 2, 4, b"72\0\0")],
    "width as a letter": [ORIENTED, (0x100, 2, 2, b"8\0\0\0")],
    "a rational over 0": [ORIENTED, (0x11A, 10, 1, struct.pack("<I", 38))],
    "several values for one": [ORIENTED, (0x11A, 5, 2, struct.pack("<I", 40))],
    "bytes of no type": [ORIENTED, (0x13B, 7, 4, b"\xe9\0\xff\1")],
    "a pointer to nowhere": [ORIENTED, (0x8769, 4, 1, struct.pack("<I", 10**6))],
    "an unknown type": [ORIENTED, (0x10F, 99, 1, bytes(4))],
    "orientation as text": [(0x112, 2, 2, b"6\0\0\0")],
    "an orientation that is none": [(0x112, 3, 1, struct.pack("<HH", 77, 0))],
}


@pytest.mark.parametrize("tags", ODD_TAGS.values(), ids=ODD_TAGS)
def test_odd_tags_cost_at_most_the_orientation(tmp_path, tags):
    f = tmp_path / "a.jpg"
    block = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHI", t, k, n) + v for t, k, n, v in tags)
    stored = picture().transpose(Image.Transpose.ROTATE_90)
    stored.save(f, exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + block + bytes(68), quality=95)
    want = picture() if ORIENTED in tags else stored
    assert near(load_image(f), want) and near(load_image(Image.open(f)), want)


# ---- bad, named ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "source,words",
    [
        (None, ["NoneType"]),
        (3, ["int"]),
        ([picture()], ["list", "one picture"]),
        ({"image": picture()}, ["dict"]),
        (SimpleNamespace(image=None), ["SimpleNamespace"]),
        (np.zeros((9, 9, 5), np.uint8), ["(9, 9, 5)"]),
        (np.zeros((0, 9, 3), np.uint8), ["(0, 9, 3)"]),
        (np.zeros((9, 9, 3), int), ["int64", "uint8"]),
        (np.full((9, 9, 3), 255.0), ["255", "0 to 1"]),
        (np.full((9, 9), np.nan), ["nan"]),
        (np.array(["a"]), ["<U1"]),
        (torch.zeros(1, 3, 9, 9), ["(1, 3, 9, 9)", "(3, H, W)"]),
        (torch.zeros(9, 9, 3), ["(9, 9, 3)"]),
        (torch.zeros(3, 9, 9, dtype=torch.uint8), ["uint8"]),
        (torch.full((3, 9, 9), 255.0), ["255", "-1 to 1"]),
        (torch.full((3, 9, 9), float("nan")), ["nan"]),
        (io.StringIO("text"), ["rb"]),
        ("a\0b.png", ["null"]),
        ("~nobody-of-this-name/a.png", ["~nobody-of-this-name", "no such file"]),
    ],
)
def test_what_is_no_picture(source, words):
    expect_error(source, *words)


def test_a_closed_or_cut_picture_of_pillow(tmp_path):
    picture(300, 200).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as closed:
        pass
    expect_error(closed, "a.jpg", "cannot be read")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])
    expect_error(Image.open(tmp_path / "cut.jpg"), "cut.jpg", "cannot be read")


@pytest.mark.parametrize("part", [0.2, 0.6, 0.95])
def test_damaged_avif(tmp_path, part):
    f = tmp_path / "a.avif"
    try:
        picture(300, 200).save(f)
    except (KeyError, OSError, ValueError):
        pytest.skip("this Pillow writes no AVIF")
    content = f.read_bytes()
    f.write_bytes(content[: int(len(content) * part)])
    expect_error(f, "a.avif")
    middle = len(content) // 2
    f.write_bytes(content[:middle] + bytes(40) + content[middle + 40 :])
    expect_error(f, "a.avif")


def test_text_named_png(tmp_path):
    f = tmp_path / "notes.png"
    f.write_text("maeve likes kites")
    expect_error(f, "notes.png", "convert it to JPEG or PNG")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_truncated_jpeg(tmp_path, part):
    f = tmp_path / "cut.jpg"
    picture(600, 400).save(f, quality=95)
    f.write_bytes(f.read_bytes()[: int(f.stat().st_size * part)])
    expect_error(f, "cut.jpg")


def test_damaged_png(tmp_path):
    f = tmp_path / "bad.png"
    picture().save(f)
    b = bytearray(f.read_bytes())
    b[45:60] = bytes(15)
    f.write_bytes(b)
    expect_error(f, "bad.png")


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7)])
def test_too_small(tmp_path, size):
    f = tmp_path / "dot.png"
    picture().resize(size).save(f)
    expect_error(f, "dot.png", f"{size[0]}x{size[1]}", "8 pixels")
    with pytest.raises(OmniError):
        load_image(picture().resize(size))


@pytest.mark.parametrize(
    "side", [9_000, 12_000, 20_000], ids=["over ours", "over the warning of Pillow", "over the limit of Pillow"]
)
def test_too_large_is_refused_from_the_header(tmp_path, side):
    "There are no pixels in the file, so a message about the size shows that none were decoded."
    f = tmp_path / "poster.png"
    f.write_bytes(png_header(side, side))
    expect_error(f, "poster.png", "64 million" if side > 15_000 else f"{side}x{side}", "smaller")


def test_real_bomb(tmp_path):
    f = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(f)
    assert f.stat().st_size < 2**17
    expect_error(f, "bomb.png", "smaller")


def test_missing_empty_folder_heic(tmp_path):
    expect_error(tmp_path / "none.png", "none.png", "no such file")
    (tmp_path / "empty.png").touch()
    expect_error(tmp_path / "empty.png", "empty.png", "empty")
    expect_error(tmp_path, tmp_path.name, "list_images")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(64))
    expect_error(tmp_path / "IMG_1.HEIC", "IMG_1.HEIC", "HEIC", "JPEG")
    expect_error(b"hello", "bytes")


def test_folders(tmp_path):
    for n in ("b10.png", "b9.jpg", "B1.PNG", ".b.png", "b.txt"):
        (tmp_path / n).touch()
    (tmp_path / "c.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["B1.PNG", "b9.jpg", "b10.png"]
    with pytest.raises(OmniError, match="no such folder"):
        list_images(tmp_path / "b9.jpg")
    with pytest.raises(OmniError, match="no pictures"):
        list_images(tmp_path / "c.png")


@pytest.mark.parametrize("name", ["", "my dog", "<sks>", "a/b", "..", "x" * 33, "a\n", "maëve", None, 3, "<b>" * 100])
def test_bad_names(name):
    with pytest.raises(OmniError) as e:
        check_name(name)
    assert repr(name)[:50] in str(e.value) and len(str(e.value)) < 200


# ---- there and back -----------------------------------------------------------------------------------------------
def test_tensor_identities():
    x = to_tensor(picture())
    assert x.shape == (3, 60, 90) and torch.equal(
        x, to_tensor(to_image(x + 1e-4))
    )  # a hair above, cutting decimals off is exact
    assert (
        to_image(torch.full((3, 4, 4), 9.0)).getpixel((0, 0)) == (255,) * 3
        and to_image(torch.full((3, 4, 4), -9.0)).getpixel((0, 0)) == (0,) * 3
    )
    with pytest.raises(OmniError, match="channels first"):
        to_image(torch.zeros(4, 4, 3))


# ---- figures ------------------------------------------------------------------------------------------------------
def test_figures_can_be_read():
    "At least 100 dpi and 9 points; small pictures grow by a whole number; captions are as wide as their picture."
    fig = show_images([picture(64, 64), picture(700, 500)], ["a caption that is longer than its picture", "b"])
    assert fig.dpi >= 100 and all(ax.title.get_fontsize() >= 9 for ax in fig.axes)
    width = [round(ax.get_position().width * fig.get_figwidth() * fig.dpi) for ax in fig.axes]
    assert width[0] > 64 and width[0] % 64 == 0 and width[1] < 700
    assert "\n" in fig.axes[0].get_title()


def test_what_is_shown(tmp_path):
    picture().save(tmp_path / "a.png")
    kinds = [picture(), to_tensor(picture()), np.eye(9) > 0, np.eye(3), torch.eye(4), SimpleNamespace(image=picture())]
    assert len(show_images([*kinds, tmp_path / "a.png"], cols=3, smooth=True).axes) == 7
    assert len(show_images(picture()).axes) == 1
    with pytest.raises(OmniError, match="no pictures"):
        show_images([])
    with pytest.raises(OmniError, match="int"):
        show_images([3])


# ---- the data of a concept ----------------------------------------------------------------------------------------
def test_data_holds_pictures_of_any_kind(tmp_path):
    picture().save(tmp_path / "a.png")
    d = ConceptData([tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(picture()), picture()])
    assert all(im == picture() for im in d.images)
    d = ConceptData((picture(),), edits=[(str(tmp_path / "a.png"), "remove <sks> from the photo", picture())])
    assert d.edits[0][0] == picture() and d.edits[0][1].startswith("remove")


def test_none_is_nothing():
    d = ConceptData([picture()], None, None, None, None, None, None, None)
    assert (d.captions, d.facts, d.qa, d.edits, d.others, d.description) == (["a photo of <sks>"], {}, [], [], [], "")


def test_two_concepts_share_no_lists():
    facts = dict(toy="a red kite")
    a, b = ConceptData([picture()], facts=facts), ConceptData([picture()], facts=facts)
    a.facts["home"] = "the beach"
    assert b.facts == facts == dict(toy="a red kite")


@pytest.mark.parametrize(
    "slip,words",
    [
        (dict(images="photos/maeve"), ["images", "list", "photos/maeve", "from_folder"]),
        (dict(images=picture()), ["images", "list"]),
        (dict(images=np.zeros((9, 9, 3), np.uint8)), ["images", "list", "ndarray"]),
        (dict(images=None), ["no pictures"]),
        (dict(images=[picture(), 3]), ["images[1]", "int"]),
        (dict(images=["nowhere.png"]), ["images[0]", "nowhere.png"]),
        (dict(look_alikes="photos"), ["look_alikes", "list"]),
        (dict(others=[None]), ["others[0]"]),
        (dict(captions="a photo of <sks>"), ["captions", "list"]),
        (dict(captions=["a", "b"]), ["2 captions", "1 pictures"]),
        (dict(captions=[3]), ["captions[0]", "3"]),
        (dict(facts=["a red kite"]), ["facts", "dict", "list"]),
        (dict(facts=dict(toy=None)), ["facts", "toy"]),
        (dict(facts={3: "a red kite"}), ["facts", "3"]),
        (dict(qa=[(9, "where is <sks> ?", "the beach")]), ["qa[0]", "9", "1 pictures"]),
        (dict(qa=[(-1, "where is <sks> ?", "the beach")]), ["qa[0]", "-1"]),
        (dict(qa=[("where is <sks> ?", "the beach")]), ["qa[0]", "index"]),
        (dict(qa=[("0", "where is <sks> ?", "the beach")]), ["qa[0]", "'0'"]),
        (dict(qa="where is <sks> ?"), ["qa", "list"]),
        (dict(edits=[(picture(), "remove <sks>")]), ["edits[0]", "target"]),
        (dict(edits=[(None, "remove <sks>", picture())]), ["edits", "NoneType"]),
        (dict(description=["a dog"]), ["description", "list"]),
    ],
)
def test_slips_in_data_are_named(slip, words):
    with pytest.raises(OmniError) as e:
        ConceptData(**(dict(images=[picture()]) | slip))
    assert "\n" not in str(e.value) and all(w in str(e.value) for w in words), str(e.value)


def test_a_folder_keeps_sizes_and_names_what_is_wrong(tmp_path):
    picture(1024, 768).save(tmp_path / "a.jpg")
    picture(300, 900).save(tmp_path / "b.png")
    (tmp_path / "captions.json").write_text('\ufeff{"b.png": "a photo of <sks> at the beach"}', encoding="utf-8")
    d = ConceptData.from_folder(tmp_path)
    assert [im.size for im in d.images] == [(1024, 768), (300, 900)] and d.captions[1].endswith("beach")
    for content, word in (("{", "JSON"), ("[]", "object"), ('{"c.png": "x"}', "c.png"), ('{"b.png": 3}', "b.png")):
        (tmp_path / "captions.json").write_text(content)
        with pytest.raises(OmniError, match=word):
            ConceptData.from_folder(tmp_path)


# ---- writing ------------------------------------------------------------------------------------------------------
def test_interrupted_writes_leave_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with atomic_dir(tmp_path / "c") as d:
            (d / "x").write_text("1")
            raise KeyboardInterrupt
    with pytest.raises(TypeError):
        atomic_write(tmp_path / "f.json", {})
    assert not list(tmp_path.iterdir())
    with atomic_dir(tmp_path / "c") as d:
        atomic_write(d / "sub/x", "1")
    with atomic_dir(tmp_path / "c") as d:
        atomic_write(d / "y", b"2")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == ["c/sub/x", "c/y"]


def test_real_photos(shared):
    for kind in ("dog6", "cat2", "teapot", "backpack"):
        photos = list_images(shared / "photos" / kind)
        for f in photos:
            im = load_image(f, max_side=256)
            assert im.mode == "RGB" and max(im.size) <= 256
            assert to_tensor(square(im, 64)).shape == (3, 64, 64)
        assert len(show_images([load_image(f, max_side=64) for f in photos], cols=3).axes) >= len(photos)
