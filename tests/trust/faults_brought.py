"The faults 04, 05, 06, 07, 10, 19 and 20 of ../shared/faults as cases: FAULTS = {number: cases}."

import glob

import numpy as np
from PIL import Image

from omnipersona.concept.losses import Recipe
from omnipersona.data import ConceptData
from omnipersona.model.loading import load_backbone
from omnipersona.pictures import load_image, show_images, to_tensor

from . import cases_folders, cases_pictures, cases_texts
from .cases_folders import filled, read
from .cases_pictures import photo
from .fault_cases import FaultCases
from .material import bb, data, learn, persona

FAULTS = FaultCases()
case, borrowed = FAULTS.case, FAULTS.borrowed


def whole(tmp):
    "The shape of a file reaches the backbone."
    photo(1024, 768).save(tmp / "a.jpg")
    image = ConceptData.from_folder(tmp).images[0]
    return image.size == (1024, 768) and image.tobytes() == load_image(tmp / "a.jpg").tobytes()


case(4, "the folder keeps shape and size", whole)
borrowed(
    5, cases_folders.CASES, "captions: kohya", "captions: metadata", "captions: Captions.json", "captions: caption.json"
)
borrowed(20, cases_folders.CASES, "six pictures", "all pictures in a folder", "Negatives/", "negative/", "look-alikes/")
borrowed(20, cases_folders.CASES, "lookalikes/", "others/", "negatives/ is empty", "six HEIC", "nine placeholders")
borrowed(7, cases_pictures.CASES, "a JPEG cut", "half a header")
borrowed(10, cases_texts.CASES, "~ at ")
borrowed(10, cases_folders.CASES, "the home folder")
borrowed(19, cases_texts.CASES, "load_backbone on", "load_backbone in")
case(
    19, "dtype by name", lambda tmp: str(load_backbone("tiny", dtype="float16", device="cpu").dtype) == "torch.float16"
)
case(19, "dtype auto", lambda tmp: load_backbone("tiny", dtype="auto", device="cpu") is not None)

ASKED = "is <maeve> in the photo ?"
ARRAY = np.asarray(photo())


def result():
    return persona().generate("a photo of <maeve>")


KINDS = {
    "an array": lambda: ARRAY,
    "a tensor": lambda: to_tensor(photo()),
    "a result": result,
    "a list of one": lambda: [photo()],
    "a tuple of one": lambda: (ARRAY,),
}
for _name, _make in KINDS.items():
    case(6, f"ask about {_name}", lambda tmp, m=_make: isinstance(persona().ask(ASKED, m()).text, str))
    case(6, f"edit {_name}", lambda tmp, m=_make: persona().edit("remove <maeve> from the photo", m()).image.size)
case(6, "ask about two", lambda tmp: persona().ask(ASKED, [photo(), photo()]), "refused", ("2 pictures",))
case(6, "edit None", lambda tmp: persona().edit("remove <maeve> from the photo", None), "refused", ("NoneType",))
case(6, "show results", lambda tmp: len(show_images([result(), result()]).axes) == 2)
case(6, "no questions", lambda tmp: persona().ask_many([]) == persona().generate_many([], []) == [])
borrowed(6, cases_pictures.CASES, "data from", "lists: ", "a picture of Pillow that is closed")
borrowed(6, cases_texts.CASES, "facts: ", "a question about picture", "learn from")


def learnt(make, **kw):
    return lambda tmp: learn(bb(), make(tmp), "maeve", progress=False, **{"steps": 1, **kw}) is not None


case(6, "learn from paths", learnt(lambda tmp: ConceptData(glob.glob(str(filled(tmp, "a.png", "b.jpg") / "*")))))
case(6, "learn from arrays", learnt(lambda tmp: ConceptData([ARRAY])))
case(6, "learn from a folder", learnt(lambda tmp: str(filled(tmp, "a.png"))))
case(6, "a recipe as a dict", learnt(lambda tmp: data(), recipe=dict(learning_rate=0.01)))
case(6, "no warm-up", learnt(lambda tmp: data(), recipe=Recipe(warmup_steps=0)))


def damaged_avif(part):
    def run(tmp):
        photo(320, 240).save(tmp / "a.avif")
        content = (tmp / "a.avif").read_bytes()
        cut, at = int(len(content) * part), len(content) // 2
        (tmp / "a.avif").write_bytes(content[:cut] if part < 1 else content[:at] + bytes(40) + content[at + 40 :])
        return load_image(tmp / "a.avif")

    return run


if (".avif", "AVIF") in Image.registered_extensions().items():
    for _part in (0.2, 0.6, 0.95, 1):
        case(7, f"AVIF, {_part:.0%} of it", damaged_avif(_part), "refused", ("a.avif", "damaged"))
case(20, "the report names all", lambda tmp: "day1/" in read(filled(tmp, "a.png", "day1/b.png"))[1])
