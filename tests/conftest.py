"Fixtures for all tests."
import sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tools'))   # house.py

@pytest.fixture
def shared():
    "The material that lies beside the project at the developers' and in CI, not at a user's."
    path = ROOT.parent/'shared'
    if not path.is_dir(): pytest.skip('needs ../shared, which is not beside this checkout')
    return path
