"The tiny backbone is at hand soon: what is imported until its first answer is a short list."

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL = {"PIL", "numpy", "omnipersona", "safetensors", "tokenizers", "torch", "tqdm"}  # each takes little beside torch
FIRST_ANSWER = """
import torch, sys
before = set(sys.modules)
from omnipersona.all import *
bb = load_backbone("tiny")
text = Persona(bb, Concept(bb, "maeve")).ask("what is the toy of <maeve> ?").text
assert text
print(*sorted({m.split(".")[0] for m in set(sys.modules) - before}))
print("torch._dynamo" in sys.modules)
"""


def in_a_new_process(code):
    "The lines that it prints."
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_first_answer_needs_few_libraries():
    "Neither transformers, nor diffusers, nor torch's compiler: they take seconds."
    modules, compiler = in_a_new_process(FIRST_ANSWER)
    own = {m for m in modules.split() if m not in sys.stdlib_module_names and not m.startswith("_")}
    assert own <= SMALL, f"new: {sorted(own - SMALL)}"
    assert compiler == "False"
