"Run by tests in processes of their own: learns a few steps with a random backbone. learn_script.py OUT.json [--steps N] [--folder DIR] [--kill STEP] [--accelerate]"

import argparse
import json
import os
import signal
from dataclasses import replace

from helpers import SHORT, ToyWorld, random_backbone

from omnipersona.concept.learn import learn

a = argparse.ArgumentParser()
a.add_argument("out")
a.add_argument("--steps", type=int, default=5)
a.add_argument("--folder")
a.add_argument("--kill", type=int)
a.add_argument("--accelerate", action="store_true")
a = a.parse_args()
acc = None
if a.accelerate:
    from accelerate import Accelerator

    acc = Accelerator(cpu=True)


def kill(L):
    if L.global_step == a.kill:
        os.kill(os.getpid(), signal.SIGKILL)  # no `finally` is run


world = ToyWorld()
c = learn(
    random_backbone(),
    world.concept_data(world.character(seed=123), n_images=3),
    "maeve",
    recipe=replace(SHORT, steps=a.steps),
    folder=a.folder,
    every=2,
    progress=False,
    callbacks=[kill],
    accelerator=acc,
)
if not acc or acc.is_main_process:
    with open(a.out, "w") as f:
        json.dump(dict(log=c.history, rows=c.embeddings.tolist(), processes=acc.num_processes if acc else 1), f)
