"""Run by tests in processes of their own: learns a few steps with a random backbone.

learn_script.py OUT.json [--steps N] [--folder DIR] [--kill STEP] [--accelerate]"""

import argparse
import json
import os
import signal
from dataclasses import replace

from helpers import SHORT, ToyWorld, random_backbone

from omnipersona.concept.learn import learn

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--folder")
parser.add_argument("--kill", type=int)
parser.add_argument("--accelerate", action="store_true")
args = parser.parse_args()
accelerator = None
if args.accelerate:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)


def kill(learner):
    if learner.global_step == args.kill:
        os.kill(os.getpid(), signal.SIGKILL)  # no `finally` is run


world = ToyWorld()
concept = learn(
    random_backbone(),
    world.concept_data(world.character(seed=123), n_images=3),
    "maeve",
    recipe=replace(SHORT, steps=args.steps),
    output_dir=args.folder,
    save_steps=2,
    progress=False,
    callbacks=[kill],
    accelerator=accelerator,
)
if not accelerator or accelerator.is_main_process:
    processes = accelerator.num_processes if accelerator else 1
    out = dict(history=concept.history, embeddings=concept.embeddings.tolist(), processes=processes)
    with open(args.out, "w") as f:
        json.dump(out, f)
