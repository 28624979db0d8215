"Folders of pictures, as people bring them, and their texts with bytes changed, lost and doubled."

import json
import random
import warnings
from collections import Counter

import pytest

from omnipersona.arguments import OmniError
from omnipersona.data import ConceptData

from .cases_folders import CASES, EDIT, SAID, filled, rows
from .corpus import check, each
from .fuzz_pictures import mutated


@each(CASES)
def test_case(case, tmp_path):
    check(case, tmp_path)


TEXTS = {
    "captions.json": json.dumps({"a.png": SAID, "b.png": "Zoë <sks>"}, ensure_ascii=False).encode(),
    "metadata.jsonl": rows(("a.png", SAID), ("b.png", SAID)).encode("utf-16"),
    "metadata.csv": f"file_name,text\na.png,{SAID}\nb.png,{SAID}\n".encode(),
    "a.txt": SAID.encode("utf-8-sig"),
    "edits.json": json.dumps([EDIT]).encode(),
}


def fuzz(folder, n, seed):
    "Counts of n folders of which one text was mutated: accepted, or refused with the folder's name."
    r, counts = random.Random(seed), Counter()
    filled(folder, "a.png", "b.png", "edited/c.png")
    for i in range(n):
        name = list(TEXTS)[i % len(TEXTS)]
        (folder / name).write_bytes(mutated(TEXTS[name], r))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = ConceptData.from_folder(folder)
            assert len(data.images) == len(data.captions) == 2
            counts["accepted"] += 1
        except OmniError as e:
            assert str(e).isprintable() and name in str(e), str(e)
            counts["refused"] += 1
        (folder / name).unlink()
    return counts


def test_mutated_texts(tmp_path):
    assert fuzz(tmp_path, 200, 0)["refused"] > 50


@pytest.mark.trust
def test_5000_mutated_texts(tmp_path):
    assert fuzz(tmp_path, 5000, 1).total() == 5000
