"""Kills runs at random moments and looks at what is left: killing.py KIND NUMBER SEED [THREADS]

KIND: 'kill' (SIGKILL while learning), 'stop' (the stop button while learning), 'save' (SIGKILL while a checkpoint is
written), 'mixed' (these three in turn), 'bench' (SIGKILL while a benchmark learns). The same number of threads in every
run (1, if not said), so that every run gives the same bits. The process that prints the result learns nothing itself
and has one thread: each run is a fork of it. Prints JSON: kills, survived, lost, said, threads."""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from helpers import SHORT, ToyWorld, random_backbone
from safetensors import safe_open

import omnipersona.basics as basics
import omnipersona.bench.scores as scores
from omnipersona.concept.learn import learn

torch.set_num_threads(1)
THREADS = int(sys.argv[4]) if len(sys.argv) > 4 else 1  # of a run
STEPS, EVERY = 12, 2
bb, world = random_backbone(), ToyWorld()
data = world.concept_data(world.character(seed=123), n_images=3)


def digest(embeddings):
    return hashlib.sha256(embeddings.detach().float().contiguous().numpy().tobytes()).hexdigest()


def run(folder, out, before=None):
    "Learn in this process, and write what came back: the digest after every step seen here, and that of the concept."
    seen, back = {}, None
    try:
        if before:
            before()
        back = learn(
            bb,
            data,
            "maeve",
            recipe=replace(SHORT, steps=STEPS),
            output_dir=folder,
            save_steps=EVERY,
            progress=False,
            callbacks=[lambda learner: seen.update({learner.global_step: digest(learner.concept.embeddings)})],
        )
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    said = dict(seen=seen)
    if back is not None:
        said |= dict(steps=back.summary["steps"], digest=digest(back.embeddings), losses=json.dumps(back.history))
    Path(out).write_text(json.dumps(said))


def bench(folder, out):
    "What a benchmark learns, in this process."
    scores.load_backbone, scores.ToyJudge = lambda name: bb, lambda: None
    concept = scores.learn_character(123, 0, replace(SHORT, steps=STEPS), folder)[3]
    Path(out).write_text(json.dumps(dict(steps=concept.summary["steps"], digest=digest(concept.embeddings), losses="")))


def forked(work, *given, after=None, how=signal.SIGKILL):
    "Do it in a child, which gets the signal `after` so many seconds. Returns whether the child came to its end."
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.stderr = open(os.devnull, "w")
            torch.set_num_threads(THREADS)
            work(*given)
            code = 0
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(child, how)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_while_saving(where):
    "Patches this process: SIGKILL at the third checkpoint, before, in the middle of, or after its writing."
    true, count = os.replace, []

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    def replaced(a, b):
        count.append(1)
        if len(count) == 3 and where == "half":
            content = Path(a).read_bytes()
            Path(a).write_bytes(content[: len(content) // 2])
        if len(count) == 3 and where in ("half", "written"):
            kill()
        true(a, b)
        if len(count) == 3 and where == "replaced":
            kill()

    basics.os.replace = replaced


def left(folder, reference):
    "What is wrong with what a killed run has left: texts. And how many bytes cannot be used any more."
    wrong, lost, f = [], 0, folder / "checkpoint.safetensors"
    if f.exists():
        try:
            with safe_open(f, "pt") as file:
                step, got = int(file.metadata()["step"]), digest(file.get_tensor("embeddings"))
            if step and got != reference["seen"][str(step)]:
                wrong.append(f"the checkpoint of step {step} is another one")
        except Exception as e:
            wrong, lost = [f"checkpoint: {e}"], f.stat().st_size
    others = [p.name for p in folder.rglob("*") if p != f and not p.name.endswith(".part")] if folder.exists() else []
    return wrong + [f"left over: {name}" for name in others], lost


def one(kind, r, tmp, reference, seconds):
    "Kill once, look, and go on to the end: (what is wrong, bytes lost)."
    folder, out, again = tmp / "run", tmp / "out.json", tmp / "again.json"
    wrong, lost = [], 0
    if kind == "bench":
        forked(bench, folder, out, after=r.uniform(0, seconds))
        code = forked(bench, folder, again)
    else:
        if kind == "save":
            where = r.choice(["half", "written", "replaced"])
            code = forked(run, folder, out, lambda: die_while_saving(where))
            wrong += [] if code == -signal.SIGKILL else [f"was not killed: {code}"]
        else:
            how = signal.SIGKILL if kind == "kill" else signal.SIGINT
            forked(run, folder, out, after=r.uniform(0, seconds), how=how)
        more, lost = left(folder, reference)
        wrong += more
        if out.exists():  # it came back by itself: finished, or interrupted
            said = json.loads(out.read_text())
            if "digest" not in said and said["seen"]:
                wrong.append(f"interrupted after {len(said['seen'])} steps, and nothing came back")
            if said.get("steps") and said["digest"] != reference["seen"][str(said["steps"])]:
                wrong.append(f"what came back is not what was learnt in {said['steps']} steps")
        code = forked(run, folder, again)
    if code or not again.exists():
        return [*wrong, f"cannot go on: {code}"], lost
    now = json.loads(again.read_text())
    for k in ("steps", "digest", "losses"):
        if now[k] != reference[k]:
            wrong.append(f"{k} after going on: {now[k]}")
    if kind != "bench" and (files := sorted(p.name for p in folder.iterdir())) != ["checkpoint.safetensors"]:
        wrong.append(f"files: {files}")
    if kind == "bench":
        half = [p.name for p in folder.iterdir() if p.name[0] != "." and not (p / "concept.json").exists()]
        wrong += [f"not whole: {name}" for name in half]
    return wrong, lost


def main(kind, number, seed):
    r, root = random.Random(seed), Path(tempfile.mkdtemp())
    work = bench if kind == "bench" else run
    begun = time.time()
    assert forked(work, root / "reference", root / "reference.json") == 0
    seconds, reference = time.time() - begun, json.loads((root / "reference.json").read_text())
    said, survived, lost = [], 0, 0
    for i in range(number):
        tmp = root / str(i)
        tmp.mkdir()
        now = ("kill", "stop", "save")[i % 3] if kind == "mixed" else kind
        wrong, gone = one(now, r, tmp, reference, seconds)
        survived, lost, said = survived + (not wrong), lost + gone, said + wrong
        shutil.rmtree(tmp)
    shutil.rmtree(root)
    print(json.dumps(dict(kills=number, survived=survived, lost=lost, said=said, threads=THREADS)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
