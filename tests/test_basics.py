"What people really bring: odd picture files, broken ones, and names with markup. The notebook tests the ordinary cases."

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from omnipersona.basics import OmniError, atomic_dir, atomic_write, check_name
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


# ---- bad, named ---------------------------------------------------------------------------------------------------
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
