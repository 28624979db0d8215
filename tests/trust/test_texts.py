"Texts, names, facts, prompts, seeds, devices, formats and paths; and whatever Hypothesis thinks of."

import json
import tempfile
import unicodedata
import warnings
from pathlib import Path

import pytest

from omnipersona.arguments import OmniError, as_dtype, as_path, as_seed, as_text, decode_text, parse_json, printable
from omnipersona.basics import check_name
from omnipersona.concept.requests import replace_brackets
from omnipersona.data import ConceptData

from .cases_pictures import photo
from .cases_texts import CASES
from .corpus import check, each

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
some = hypothesis.settings(max_examples=150, deadline=None, database=None, derandomize=True)
few = hypothesis.settings(some, max_examples=30)
texts = st.text(st.characters(exclude_categories=()), max_size=60)  # surrogates and controls too
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)


def ours(f, *args):
    "What comes back, or the OmniError: on one line, printable, not long."
    try:
        return f(*args)
    except OmniError as e:
        text = str(e)
        assert text.isprintable() and len(text) < 1500, text
        text.encode()
        return e


@some
@hypothesis.given(anything)
def test_arguments_of_any_kind(value):
    for f in (as_text, as_seed, as_dtype, check_name):
        ours(f, value)
    if not isinstance(value, (str, bytes)):
        assert isinstance(ours(as_path, value), OmniError)
    assert printable(value).isprintable()


@some
@hypothesis.given(texts)
def test_texts_come_through_unchanged(text):
    for found in (ours(as_text, text), ours(lambda t: ConceptData([photo()], [t]).captions[0], text)):
        assert found == text or isinstance(found, OmniError)
    ours(lambda t: ConceptData([photo()], facts={t: t}), text)
    ours(replace_brackets, text, dict(maeve="<name_0>").get, ["maeve"])


@some
@hypothesis.given(st.binary(max_size=300))
def test_bytes_as_a_text_file(content):
    ours(lambda c: parse_json(decode_text(c, "a.json"), name="a.json"), content)


@some
@hypothesis.given(anything)
def test_data_of_any_kind(value):
    for name in ("captions", "facts", "qa", "edits", "look_alikes", "others", "description"):
        ours(lambda n, v: ConceptData([photo()], **{n: v}), name, value)
    ours(ConceptData, value)


@few
@hypothesis.given(
    st.dictionaries(texts, st.none() | st.integers() | texts, max_size=3), st.sampled_from(["utf-8", "utf-16"])
)
def test_any_captions_json(captions, encoding):
    "Names of pictures that are not there, twice, composed otherwise; captions of any kind."
    with tempfile.TemporaryDirectory() as d:
        photo().save(Path(d, "é.png"))
        given = captions | {unicodedata.normalize("NFD", "é.png"): "a photo of <sks>"}
        Path(d, "captions.json").write_bytes(json.dumps(given).encode(encoding))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = ours(ConceptData.from_folder, d)
        assert isinstance(found, OmniError) or found.captions == ["a photo of <sks>"]
