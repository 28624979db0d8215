"Fixtures for all tests."

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))  # house.py


@pytest.fixture
def shared():
    "The material that lies beside the project at the developers' and in CI, not at a user's."
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs ../shared, which is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def world():
    from helpers import ToyWorld

    return ToyWorld()


@pytest.fixture(scope="session")
def char(world):
    return world.character(seed=123)


@pytest.fixture(scope="session")
def data(world, char):
    return world.concept_data(char, n_images=3, seed=0)


@pytest.fixture(scope="session")
def bb():
    "A random backbone: mechanics do not depend on what was learnt. No test may change it."
    from helpers import random_backbone

    return random_backbone()


@pytest.fixture(scope="session")
def concept(bb, data):
    "What six steps make of a concept."
    from helpers import SHORT

    from omnipersona.concept.learn import learn

    return learn(bb, data, name="maeve", recipe=SHORT, progress=False)


def shipped(name):
    import omnipersona

    folder = Path(omnipersona.__file__).parent / "weights" / name
    if not list(folder.rglob("*.safetensors")):
        pytest.skip(f"needs the shipped weights omnipersona/weights/{name}, which are not in this checkout")
    return folder


@pytest.fixture(scope="session")
def tiny():
    "The real backbone."
    shipped("tiny")
    from omnipersona.model.loading import load_backbone

    return load_backbone("tiny")


@pytest.fixture(scope="session")
def judge():
    shipped("judge")
    from omnipersona.toyworld.judge import ToyJudge

    return ToyJudge()
