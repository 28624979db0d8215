"Pictures: what Pillow opens, what only looks like a picture, and what code passes."

import io
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageCms, ImageDraw, features

from omnipersona.arguments import OmniError
from omnipersona.data import ConceptData
from omnipersona.model.preprocessing import as_list, open_pictures
from omnipersona.pictures import load_image, one_picture, picture_list, show_images, to_tensor

from .corpus import Case

CASES: list[Case] = []


def photo(w=90, h=60):
    "Blue, with a red rectangle at the top left and a slope of grey below."
    im = Image.new("RGB", (w, h), (40, 90, 200))
    draw = ImageDraw.Draw(im)
    draw.rectangle((0, 0, w // 3, h // 3), fill=(220, 40, 30))
    for x in range(w):
        draw.line((x, 3 * h // 4, x, h), fill=(x * 255 // w,) * 3)
    return im


def apart(a, b):
    "Mean difference of two pictures of one size, 0 to 255."
    return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() if a.size == b.size else 999.0


def said(path):
    "(picture, what the warnings say)."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = load_image(path)
    return image, " ".join(str(w.message) for w in caught)


def accepted(name, run):
    CASES.append(Case("pictures", name, run))


def refused(name, run, *words):
    CASES.append(Case("pictures", name, run, "refused", words))


# ---- every way of storing colour ----------------------------------------------------------------------------------
COLOUR = [  # mode, suffix, tolerance
    ("RGB", "png", 0),
    ("RGB", "jpg", 6),
    ("RGB", "webp", 6),
    ("RGB", "bmp", 0),
    ("RGB", "tif", 0),
    ("RGB", "ppm", 0),
    ("RGB", "tga", 0),
    ("P", "png", 6),
    ("P", "gif", 6),
    ("P", "tif", 6),
    ("CMYK", "jpg", 6),
    ("CMYK", "tif", 2),
    ("RGBA", "png", 0),
    ("RGBA", "tif", 0),
    ("RGBX", "tif", 0),
    ("YCbCr", "jpg", 6),
    ("YCbCr", "tif", 6),
    ("LAB", "tif", 6),
]
COLOUR += [("RGB", "avif", 8)] if features.check("avif") else []
COLOUR += [("RGB", "jp2", 6)] if features.check("jpg_2000") else []


def in_mode(mode):
    im = photo()
    return im.quantize(64) if mode == "P" else im.convert(mode)


def keeps_colour(mode, suffix, tolerance):
    def run(tmp):
        in_mode(mode).save(tmp / f"a.{suffix}")
        image, notes = said(tmp / f"a.{suffix}")
        return image.mode == "RGB" and apart(image, photo()) <= tolerance and not notes

    return run


for _mode, _suffix, _tolerance in COLOUR:
    accepted(f"{_mode} in {_suffix}", keeps_colour(_mode, _suffix, _tolerance))
IN_MEMORY = {  # modes that no file holds
    "HSV": lambda: photo().convert("HSV"),
    "La": lambda: photo().convert("LA").convert("La"),
    "RGBa": lambda: photo().convert("RGBA").convert("RGBa"),
    "PA": lambda: photo().quantize(64).convert("PA"),
    "LA": lambda: photo().convert("LA"),
    "1": lambda: photo().convert("1"),
}
for _mode, _make in IN_MEMORY.items():
    accepted(f"{_mode} in memory", lambda tmp, make=_make: load_image(make()).mode == "RGB")

# ---- grey levels of other widths ----------------------------------------------------------------------------------
GREY = np.asarray(photo().convert("L")).astype(np.float64) / 255
WIDTHS = [  # name, numbers, suffix, is said
    ("8 bits", (GREY * 255).round().astype(np.uint8), "png", False),
    ("16 bits", (GREY * 65535).round().astype(np.uint16), "png", False),
    ("16 bits", (GREY * 65535).round().astype(np.uint16), "tif", False),
    ("12 in 16 bits", (GREY * 4095).round().astype(np.uint16), "png", True),
    ("12 in 16 bits", (GREY * 4095).round().astype(np.uint16), "tif", True),
    ("10 in 16 bits", (GREY * 1023).round().astype(np.uint16), "png", True),
    ("8 in 16 bits", (GREY * 255).round().astype(np.uint16), "png", True),
    ("12 in 32 bits", (GREY * 4095).round().astype(np.int32), "tif", True),
    ("16 in 32 bits", (GREY * 65535).round().astype(np.int32), "tif", False),
    ("8 in 32 bits", (GREY * 255).round().astype(np.int32), "tif", True),
]


def keeps_grey(numbers, suffix, is_said):
    def run(tmp):
        Image.fromarray(numbers).save(tmp / f"a.{suffix}")
        image, notes = said(tmp / f"a.{suffix}")
        want = Image.fromarray((GREY * 255).round().astype(np.uint8)).convert("RGB")
        return apart(image, want) < 1.5 and bool(notes) == is_said and (not notes or f"a.{suffix}" in notes)

    return run


for _name, _numbers, _suffix, _said in WIDTHS:
    accepted(f"{_name} in {_suffix}", keeps_grey(_numbers, _suffix, _said))

STRETCHED = {
    "int32 over 16 bits": (GREY * 2**30).astype(np.int32),
    "int32 below zero": ((GREY - 0.5) * 2**20).astype(np.int32),
    "floats from 0 to 1": GREY.astype(np.float32),
    "floats of HDR": (GREY * 1e4).astype(np.float32),
    "floats with NaN": np.where(GREY > 0.9, np.nan, GREY).astype(np.float32),
    "floats with infinity": np.where(GREY > 0.9, np.inf, GREY).astype(np.float32),
    "floats of one value": np.full((60, 90), 0.5, np.float32),
}


def is_stretched(numbers):
    def run(tmp):
        Image.fromarray(numbers).save(tmp / "a.tif")
        image, notes = said(tmp / "a.tif")
        wide = np.ptp(np.asarray(image)) == 255 or np.ptp(numbers) == 0
        return wide and "shown black" in notes

    return run


for _name, _numbers in STRETCHED.items():
    accepted(_name, is_stretched(_numbers))


def saved(name, make):
    "A case's `run` that saves a picture under a name and loads it."

    def run(tmp):
        make(tmp / name)
        return load_image(tmp / name)

    return run


refused(
    "floats, all NaN",
    saved("n.tif", lambda f: Image.fromarray(np.full((60, 90), np.nan, np.float32)).save(f)),
    "n.tif",
    "NaN",
)


def png_16(rgb):
    "A PNG with colours of 16 bits, which Pillow cannot write."
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


COLOURS = np.asarray(photo()).astype(np.uint16)
accepted(
    "colours of 16 bits",
    lambda tmp: (tmp / "a.png").write_bytes(png_16(COLOURS * 257)) and apart(load_image(tmp / "a.png"), photo()) <= 1,
)
refused(
    "colours of 12 in 16 bits",
    saved("deep.png", lambda f: f.write_bytes(png_16(COLOURS * 16))),
    "deep.png",
    "16 bits",
    "save it with 8",
)


# ---- colour profiles and HDR --------------------------------------------------------------------------------------
def rgb_profile(red, green, blue, gamma=2.2):
    "An ICC profile of three colours (XYZ under D50) and a gamma."

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(78 + 1)
    tags = {b"desc": name, b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    tags |= {b"rXYZ": xyz(red), b"gXYZ": xyz(green), b"bXYZ": xyz(blue)}
    tags |= {k: curve for k in (b"rTRC", b"gTRC", b"bTRC")}
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for key, content in tags.items():
        content += bytes(-len(content) % 4)
        table += key + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4sI4s4s4s12s4s", at + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp"
    )
    head += bytes(128 - len(head) - 60) + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


P3 = rgb_profile((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
NAMED = {
    "damaged": b"no profile at all",
    "of a printer": P3.replace(b"RGB ", b"CMYK"),
    "cut short": P3[:200],
    "empty": b"",
}


def wide_red(tmp):
    "Full red of a wide profile is more than sRGB has; a pale one becomes a stronger one."
    Image.new("RGB", (16, 16), (200, 80, 60)).save(tmp / "p3.png", icc_profile=P3)
    red, green, blue = load_image(tmp / "p3.png").getpixel((5, 5))
    return red > 210 and green < 76


accepted("wide colours (Display P3)", wide_red)
for _name, _content in NAMED.items():
    accepted(
        f"a colour profile that is {_name}",
        lambda tmp, content=_content: (
            photo().save(tmp / "a.png", icc_profile=content),
            load_image(tmp / "a.png").tobytes() == photo().tobytes(),
        )[1],
    )
accepted(
    "sRGB named as such costs no bit",
    lambda tmp: (
        photo().save(tmp / "a.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        load_image(tmp / "a.png").tobytes() == photo().tobytes(),
    )[1],
)


def hdr_png(tmp, transfer):
    "A PNG whose cICP says PQ or HLG."
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (148, 148, 148)).save(buffer, "PNG")
    content, tag = buffer.getvalue(), b"cICP" + bytes([9, transfer, 0, 1])
    at = content.index(b"IDAT") - 4
    chunk = struct.pack(">I", 4) + tag + struct.pack(">I", zlib.crc32(tag))
    (tmp / "hdr.png").write_bytes(content[:at] + chunk + content[at:])
    image, notes = said(tmp / "hdr.png")
    return "HDR" in notes and image.getpixel((9, 9))[0] > 160  # the white of paper, not grey


accepted("HDR of a phone (PQ)", lambda tmp: hdr_png(tmp, 16))
accepted("HDR of television (HLG)", lambda tmp: hdr_png(tmp, 18))


def gain_map(tmp):
    "HDR of an iPhone in JPEG: a plain picture and a second one of gains."
    photo().save(
        tmp / "a.jpg", format="MPO", save_all=True, append_images=[photo().convert("L").convert("RGB")], quality=95
    )
    image, notes = said(tmp / "a.jpg")
    return apart(image, photo()) < 6 and not notes


accepted("HDR of an iPhone (gain map)", gain_map)


# ---- more pictures than one ---------------------------------------------------------------------------------------
def animation(suffix, word):
    def run(tmp):
        frames = [photo(), photo().transpose(Image.Transpose.ROTATE_180)]
        frames[0].save(tmp / f"a.{suffix}", save_all=True, append_images=frames[1:])
        image, notes = said(tmp / f"a.{suffix}")
        return apart(image, photo()) < 8 and word in notes and f"a.{suffix}" in notes

    return run


for _suffix, _word in (("gif", "animation"), ("webp", "animation"), ("png", "animation"), ("tif", "pages")):
    accepted(f"an animation in {_suffix}: first picture, said", animation(_suffix, _word))

# ---- what is no picture -------------------------------------------------------------------------------------------
HEADS = {  # content, words of the refusal
    "empty": (b"", ["empty"]),
    "a text": (b"maeve likes kites", ["convert it to JPEG"]),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(100), ["HEIC", "JPEG"]),
    "a video": (b"\0\0\0\x18ftypisom" + bytes(100), ["video"]),
    "a PDF": (b"%PDF-1.7\n" + bytes(100), ["PDF", "PNG"]),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ["SVG", "PNG"]),
    "a web page": (b"<!DOCTYPE html><html><title>404</title>", ["web page"]),
    "a pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["git-lfs", "pull"]),
    "a placeholder of iCloud": (b"bplist00" + bytes(60), ["iCloud", "download"]),
    "a zip": (b"PK\3\4" + bytes(60), ["zip", "unpack"]),
    "half a header of PNG": (b"\x89PNG\r\n\x1a\n", ["damaged"]),
    "half a header of JPEG": (b"\xff\xd8\xff\xe0", ["damaged"]),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 60\n%%EndComments\nshowpage\n", ["EPS", "PNG"]),
    "a program in Python": (b"import os; os.system('true')", ["not an image"]),
    "a pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os", ["not an image"]),
    "null bytes": (bytes(4096), ["not an image"]),
}
for _name, (_content, _words) in HEADS.items():
    refused(f"{_name} named .jpg", saved("odd.jpg", lambda f, c=_content: f.write_bytes(c)), "odd.jpg", *_words)


def raw_photo(tmp):
    from PIL import TiffImagePlugin

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[50706] = b"\1\4\0\0"
    photo().save(tmp / "raw.tif", tiffinfo=tags)
    return load_image(tmp / "raw.tif")


refused("a raw photo of a camera", raw_photo, "raw.tif", "preview", "JPEG")


def header(w, h):
    "A PNG that claims a size and holds no pixels."
    content = b"IHDR" + struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    size = struct.pack(">I", 13)
    return (
        b"\x89PNG\r\n\x1a\n" + size + content + struct.pack(">I", zlib.crc32(content)) + struct.pack(">I", 9) + b"IDAT"
    )


for _side, _word in ((9_000, "9000x9000"), (20_000, "64 million"), (2**31 - 1, "64 million")):
    refused(
        f"a bomb of {_side} pixels a side",
        saved("bomb.png", lambda f, s=_side: f.write_bytes(header(s, s))),
        "bomb.png",
        _word,
    )
for _size in ((1, 1), (7, 90), (90, 7)):
    refused(
        f"{_size[0]}x{_size[1]} pixels",
        saved("dot.png", lambda f, s=_size: photo().resize(s).save(f)),
        "dot.png",
        "too small",
    )


def cut(part):
    def make(file):
        photo(600, 400).save(file)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * part)])

    return make


for _part in (0.05, 0.3, 0.6, 0.95):
    refused(f"a JPEG cut at {_part:.0%}", saved("cut.jpg", cut(_part)), "cut.jpg", "damaged")


def at(path):
    return lambda tmp: load_image(path(tmp) if callable(path) else path)


refused("no such file", at(lambda tmp: tmp / "gone.png"), "gone.png", "no such file")
refused("a folder", at(lambda tmp: tmp), "folder", "list_images")
refused("a name with a null", at("a\0b.png"), "null")
refused("a web address", at("https://example.org/maeve.jpg"), "address", "download")
refused("an empty name", at(""), "empty")
refused("a name of 5,000 letters", at("x" * 5000), "too long")
refused("a name of half a character", at("\ud83d.png"), "cannot be written")
refused("the home of nobody", at("~nobody-of-this-name/a.png"), "no such file")


def pipe(tmp):
    os.mkfifo(tmp / "pipe.png")
    return load_image(tmp / "pipe.png")


refused("a pipe, which would wait for ever", pipe, "pipe.png", "not a plain file")


def odd_name(tmp):
    "A name with a line break, right-to-left marks and bytes of no encoding."
    name = "a\n\u202e\udce9.png"
    photo().save(tmp / name, format="PNG")
    (tmp / f"b{name}").write_bytes(b"no picture")
    ok = load_image(tmp / name).tobytes() == photo().tobytes()
    try:
        load_image(tmp / f"b{name}")
    except OmniError as e:
        text = str(e)
        return ok and text.isprintable() and bool(text.encode())
    return False


accepted("a name that cannot be printed", odd_name)

# ---- what code passes ---------------------------------------------------------------------------------------------
A = np.asarray(photo())


def same(make, tolerance=0):
    return lambda tmp: apart(load_image(make(tmp)), photo()) <= tolerance


def filed(tmp):
    photo().save(tmp / "a.png")
    return tmp / "a.png"


def zipped(tmp):
    with zipfile.ZipFile(tmp / "a.zip", "w") as z:
        z.write(filed(tmp), "a.png")
    return zipfile.ZipFile(tmp / "a.zip").open("a.png")


KINDS = {
    "a path": filed,
    "a path as text": lambda tmp: str(filed(tmp)),
    "bytes": lambda tmp: filed(tmp).read_bytes(),
    "a bytearray": lambda tmp: bytearray(filed(tmp).read_bytes()),
    "a memoryview": lambda tmp: memoryview(filed(tmp).read_bytes()),
    "an open file": lambda tmp: open(filed(tmp), "rb"),
    "a file in an archive": zipped,
    "a picture of Pillow": lambda tmp: photo(),
    "a picture of Pillow, not loaded": lambda tmp: Image.open(filed(tmp)),
    "an array": lambda tmp: A,
    "an array, mirrored in memory": lambda tmp: np.asfortranarray(A),
    "floats": lambda tmp: A / 255,
    "float16": lambda tmp: (A / 255).astype(np.float64).astype(np.float32),
    "an array with alpha": lambda tmp: np.dstack([A, np.full(A.shape[:2], 255, np.uint8)]),
    "a result": lambda tmp: SimpleNamespace(image=photo()),
    "an object with an array": lambda tmp: SimpleNamespace(image=A),
}
for _name, _make in KINDS.items():
    accepted(f"{_name}", same(_make))
for _dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
    accepted(f"a tensor of {_dtype}", same(lambda tmp, d=_dtype: to_tensor(photo()).to(d), 1.5))
accepted("a tensor that learns", same(lambda tmp: to_tensor(photo()).requires_grad_(), 1.5))
accepted("a mask of booleans", lambda tmp: load_image(A[..., 0] > 100).getextrema() == ((0, 255),) * 3)
accepted("grey as (H, W, 1)", lambda tmp: load_image(A[..., :1]).size == photo().size)

NONE = {
    "None": (None, "NoneType"),
    "a number": (3, "int"),
    "a list": ([photo()], "one picture"),
    "a dict": ({"image": photo()}, "dict"),
    "an object without a picture": (SimpleNamespace(image=None), "not a picture"),
    "5 channels": (np.zeros((9, 9, 5), np.uint8), "(9, 9, 5)"),
    "no pixels": (np.zeros((0, 9, 3), np.uint8), "(0, 9, 3)"),
    "int64": (np.zeros((9, 9, 3), int), "uint8"),
    "floats to 255": (np.full((9, 9, 3), 255.0), "0 to 1"),
    "NaN": (np.full((9, 9), np.nan), "nan"),
    "texts": (np.array(["a"]), "not a picture"),
    "complex numbers": (np.zeros((9, 9), complex), "not a picture"),
    "objects": (np.full((9, 9), None), "not a picture"),
    "a batch": (torch.zeros(1, 3, 9, 9), "(1, 3, 9, 9)"),
    "channels last": (torch.zeros(9, 9, 3), "(3, H, W)"),
    "bytes in a tensor": (torch.zeros(3, 9, 9, dtype=torch.uint8), "uint8"),
    "a tensor to 255": (torch.full((3, 9, 9), 255.0), "-1 to 1"),
    "a tensor of NaN": (torch.full((3, 9, 9), float("nan")), "nan"),
    "a tensor without numbers": (torch.zeros(3, 9, 9, device="meta"), "the picture"),
    "a text file": (io.StringIO("text"), "rb"),
    "a class": (Image.Image, "not a picture"),
}
for _name, (_value, _word) in NONE.items():
    refused(f"{_name}, not a picture", lambda tmp, v=_value: load_image(v), _word)


def closed(tmp):
    with Image.open(filed(tmp)) as image:
        pass
    return load_image(image)


refused("a picture of Pillow that is closed", closed, "a.png", "cannot be read")
for _value in (0, -1, "big", None, 3.5, float("nan")):
    refused(f"max_side={_value!r}", lambda tmp, v=_value: load_image(photo(), max_side=v), "max_side")

# ---- lists of them ------------------------------------------------------------------------------------------------
BATCH = np.stack([A, A, A])
LISTS = {
    "one picture": (photo, 1),
    "a list": (lambda: [photo(), A], 2),
    "a tuple": (lambda: (photo(),), 1),
    "nothing": (list, 0),
    "a generator": (lambda: (photo() for _ in range(3)), 3),
    "a batch of arrays": (lambda: BATCH, 3),
    "a batch of tensors": (lambda: torch.zeros(2, 3, 9, 9), 2),
    "a result": (lambda: SimpleNamespace(image=photo()), 1),
    "results": (lambda: [SimpleNamespace(image=A)] * 2, 2),
    "values of a dict": (lambda: dict(a=photo()).values(), 1),
    "a map": (lambda: map(np.asarray, [A, A]), 2),
}
for _name, (_make, _n) in LISTS.items():
    accepted(
        f"lists: {_name}",
        lambda tmp, make=_make, n=_n: (
            len(picture_list(make())) == len(open_pictures(make())) == len(as_list(make())) == n
            and (n == 0 or len(show_images(make()).axes) == n)
        ),
    )
for _name in ("a list", "a tuple", "a generator", "a batch of arrays", "results", "a map"):
    accepted(f"data from {_name}", lambda tmp, m=LISTS[_name][0]: len(ConceptData(m()).images) == len(list(m())))
refused("lists: a dict", lambda tmp: picture_list(dict(a=photo())), "dict", "values()")
refused("data from a dict", lambda tmp: ConceptData(dict(a=photo())), "images", "dict")
refused("data from a text", lambda tmp: ConceptData("photos/maeve"), "photos/maeve", "from_folder")
refused("data from one picture", lambda tmp: ConceptData(photo()), "images", "list")
refused("data from nothing", lambda tmp: ConceptData([]), "no pictures")
refused(
    "all bad entries at once", lambda tmp: ConceptData([photo(), 3, None, "x"]), "images[1]", "images[2]", "images[3]"
)
accepted("a list of one for one request", lambda tmp: one_picture([A]) is A)
refused("a list of two for one request", lambda tmp: one_picture([A, A]), "2 pictures", "one request for each")
refused("titles that do not match", lambda tmp: show_images([A, A], ["one"]), "1 titles", "2 pictures")
accepted(
    "the source is left alone",
    lambda tmp: (im := photo(), load_image(im).putpixel((0, 0), (0, 0, 0)), im.tobytes() == photo().tobytes())[2],
)
accepted(
    "neither place nor date is kept",
    lambda tmp: (
        photo().save(tmp / "a.jpg", exif=Image.Exif().tobytes() or b"Exif\0\0", comment=b"at home"),
        not (i := load_image(tmp / "a.jpg")).info and not i.getexif(),
    )[1],
)

HOME = Path("~")


def at_home(tmp):
    "`~` at the picture door."
    old = os.environ.get("HOME")
    os.environ["HOME"] = str(tmp)
    try:
        filed(tmp)
        return load_image("~/a.png").size == load_image(HOME / "a.png").size == (90, 60)
    finally:
        os.environ.pop("HOME") if old is None else os.environ.update(HOME=old)


accepted("the home folder", at_home)


def dark(tmp):
    "A sound picture of 16 pixels that is nearly black: no colours of 16 bits."
    Image.new("RGB", (16, 16), (9, 3, 2)).save(tmp / "dark.png")
    return load_image(tmp / "dark.png").getpixel((0, 0)) == (9, 3, 2)


accepted("a dark picture of 16 pixels", dark)
