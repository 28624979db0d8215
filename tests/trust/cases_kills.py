"""Runs that are killed, stopped, or lose their folder: what was learnt is there, and the next run ends as if nothing
had happened.

Random kills happen in a process of their own (killing.py), and are counted. The other cases harm this process."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from helpers import SHORT
from safetensors.torch import load_file

import omnipersona.basics as basics
import omnipersona.concept.learn as learn_module
from omnipersona.bench.main_bench import write_report
from omnipersona.concept.learn import learn
from omnipersona.run_folder import RunFolder
from trust.corpus import Case, Tally
from trust.material import bb, concept, data

TESTS = Path(__file__).resolve().parents[1]
CASES: list[Case] = []
FILE = "checkpoint.safetensors"


def case(name, run, expect="accepted", words=(), slow=False):
    CASES.append(Case("kills", name, run, expect, words, slow))


def taught(folder, callbacks=(), **kw):
    options = dict(recipe=SHORT, output_dir=folder, save_steps=2, progress=False) | kw
    return learn(bb(), data(), "maeve", callbacks=callbacks, **options)


def same(c):
    "Learnt to the end, as without any harm."
    return c.summary["steps"] == SHORT.steps and torch.allclose(c.embeddings, concept().embeddings, atol=1e-5)


def at(step, do):
    "A callback."

    def callback(learner):
        if learner.global_step == step:
            do()

    return callback


# ---- random moments ----------------------------------------------------------------------------------------------
def random_kills(kind, number, seed, threads=1):
    def run(tmp):
        path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=path, TMPDIR=str(tmp))
        command = [sys.executable, str(TESTS / "trust/killing.py"), kind, str(number), str(seed), str(threads)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3600)
        assert done.returncode == 0, done.stderr[-2000:]
        said = json.loads(done.stdout[done.stdout.index("{") :])
        assert said["threads"] == threads
        if said["said"]:
            raise AssertionError(said["said"])  # what is wrong, in words
        return Tally(said["kills"], said["survived"], said["lost"])

    return run


case("6 of all kinds", random_kills("mixed", 6, 1))
case("9 of all kinds, two threads", random_kills("mixed", 9, 2, threads=2), slow=True)
case("a benchmark twice, two threads", random_kills("bench", 2, 2, threads=2), slow=True)
for kind, number in (("kill", 22), ("stop", 12), ("save", 8), ("bench", 6)):
    for i in (1, 2):
        case(f"{kind}, {number // 2} times, {i}", random_kills(kind, number // 2, i), slow=True)


# ---- the disk fails ----------------------------------------------------------------------------------------------
@contextmanager
def small_disk(most=2000):
    "No file may be larger than this, in bytes: writing fails as on a full disk."
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, was[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)


def full_from(step):
    "The disk is full from a step on. The run goes on, warns, and keeps the checkpoint before; then it can go on."

    def run(tmp):
        was = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                limit = at(step, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, was[1])))
                c = taught(tmp / "run", [limit])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, was)
        words = " ".join(str(w.message) for w in said)
        kept = step // 2 * 2  # the checkpoint of this step was saved before the callback
        files = [p.name for p in (tmp / "run").glob("*")]
        whole = files == ([FILE] if kept else []) and "could not be written" in words
        return whole and same(c) and "not_saved" in c.summary and same(taught(tmp / "run"))

    return run


for step in range(1, 6):
    case(f"disk full after step {step}", full_from(step), slow=step in (2, 4))


def full_before(tmp):
    with small_disk():
        taught(tmp / "run")


def nothing_left(refused):
    "The refusal leaves nothing behind."

    def run(tmp):
        try:
            refused(tmp)
        finally:
            assert not (tmp / "run").exists(), "a folder was left behind"

    return run


case("disk full before the first step", nothing_left(full_before), "refused", ("output_dir", "run", "free some space"))


def failing(name, error, times):
    "A function of the system fails while checkpoints are saved, some times or always."

    def run(tmp):
        true, count = getattr(os, name), []

        def harmed(*given, **kw):
            if FILE in str(given[0]):
                count.append(1)
                if len(count) <= times:
                    raise error
            return true(*given, **kw)

        setattr(basics.os, name, harmed)
        try:
            c = taught(tmp / "run")
        finally:
            setattr(basics.os, name, true)
        files = {p.name for p in (tmp / "run").glob("*")}
        return same(c) and files <= {FILE} and same(taught(tmp / "run"))

    return run


for error in (OSError(28, "No space left on device"), OSError(5, "Input/output error"), PermissionError(13, "denied")):
    for times in (1, 2, 99):
        case(f"{error.strerror}, {times} times", failing("replace", error, times), slow=error.errno != 28)


def made(what):
    "Something that is no folder to write to: its path in tmp, or elsewhere."

    def run(tmp):
        path = what(tmp)
        before = path.read_bytes() if os.path.isfile(path) else None
        try:
            taught(path)
        finally:
            assert before is None or path.read_bytes() == before, "the file was changed"

    return run


def a_file(tmp):
    (tmp / "run").write_text("mine")
    return tmp / "run"


def below_a_file(tmp):
    return a_file(tmp) / "deeper"


def a_broken_link(tmp):
    (tmp / "run").symlink_to(tmp / "file")
    (tmp / "file").write_text("mine")
    return tmp / "run"


for name, what, word in (
    ("a file in place of the folder", a_file, "run"),
    ("a folder below a file", below_a_file, "deeper"),
    ("a link to a file", a_broken_link, "run"),
    ("a folder of the system", lambda tmp: Path("/proc/run"), "/proc/run"),
    ("a folder that nobody may write", lambda tmp: Path("/sys/run"), "/sys/run"),
    ("a name that is too long", lambda tmp: tmp / ("x" * 300), "xxx"),
    ("an empty name", lambda tmp: "", "output_dir"),
    ("a number", lambda tmp: 3, "output_dir"),
):
    case(name, made(what) if not name.startswith(("an e", "a nu")) else lambda tmp, w=what: taught(w(tmp)), "refused",
         (word, "output_dir"))  # fmt: skip


# ---- the folder goes away ----------------------------------------------------------------------------------------
def gone(step, then=None):
    "The folder is removed after a step, and something else may take its place. The concept comes back all the same."

    def run(tmp):
        def harm():
            shutil.rmtree(tmp / "run", ignore_errors=True)
            if then:
                then(tmp / "run")

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            c = taught(tmp / "run", [at(step, harm)])
        told = any("was gone" in str(w.message) or "could not be written" in str(w.message) for w in said)
        there = (tmp / "run" / FILE).exists() or "not_saved" in c.summary
        return same(c) and told and there

    return run


for step in (1, 3, 6):
    case(f"the folder is removed after step {step}", gone(step))
    case(f"a file takes the place of the folder after step {step}", gone(step, lambda p: p.write_text("")))
    case(f"a dead link takes its place after step {step}", gone(step, lambda p: p.symlink_to(p / "nowhere")))


# ---- two at once -------------------------------------------------------------------------------------------------
def in_use(tmp):
    with RunFolder(tmp / "run", 1000):
        taught(tmp / "run")


def inside_a_run(tmp):
    taught(tmp / "run", [at(2, lambda: taught(tmp / "run"))])


def holder(tmp, then):
    "Another process holds the folder; `then` gets that process."
    code = f"from omnipersona.run_folder import RunFolder\nRunFolder({str(tmp / 'run')!r}, 9).__enter__()\n"
    code += "print('held', flush=True)\nimport time\ntime.sleep(600)"
    env = os.environ | dict(PYTHONPATH=str(TESTS.parent))
    child = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        return then(child)
    finally:
        child.kill()
        child.wait()


def after_a_crash(tmp):
    "The lock of a process that was killed is gone."

    def killed(child):
        child.kill()
        child.wait()
        return same(taught(tmp / "run"))

    return holder(tmp, killed)


IN_USE = ("output_dir", "in use by another run", "wait", "another folder")
case("two runs, one folder", in_use, "refused", IN_USE)
case("a run within a run", inside_a_run, "refused", IN_USE)
case("another process holds it", lambda tmp: holder(tmp, lambda child: taught(tmp / "run")), "refused", IN_USE)
case("the process that held it was killed", after_a_crash)
case("two runs after another", lambda tmp: same(taught(tmp / "run")) and same(taught(tmp / "run")))
case("two runs in two folders", lambda tmp: same(taught(tmp / "a", [at(2, lambda: taught(tmp / "b"))])))


def refused_before(tmp):
    "What is wrong with the data is said, and no empty folder stays."
    learn(bb(), data(), "not a name", recipe=SHORT, output_dir=tmp / "run", progress=False)


case("nothing is made for a wrong name", nothing_left(refused_before), "refused", ("not a name",))


def leftovers(tmp):
    "The unfinished file of a killed run is removed by the next one; other hidden files are not touched."
    (tmp / "run").mkdir()
    (tmp / "run" / f".{FILE}.1234abcd.part").write_bytes(b"half")
    (tmp / "run" / ".notes").write_text("mine")
    return same(taught(tmp / "run")) and {p.name for p in (tmp / "run").iterdir()} == {FILE, ".notes"}


case("what a killed run left is removed", leftovers)


# ---- stopped while saving, and an error of a callback ------------------------------------------------------------
def stopped_while_saving(when):
    "The stop button during the n-th save: the checkpoint is whole, the concept comes back, and the run can go on."

    def run(tmp):
        true, count = learn_module.save_checkpoint, []

        def pressed(*given):
            count.append(1)
            if len(count) == when:
                os.kill(os.getpid(), signal.SIGINT)
            return true(*given)

        learn_module.save_checkpoint = pressed
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start tests deaf to the button
        try:
            c = taught(tmp / "run")
        finally:
            learn_module.save_checkpoint = true
            signal.signal(signal.SIGINT, before)
        steps = min(2 * when, SHORT.steps)
        kept = load_file(tmp / "run" / FILE)["embeddings"]
        return c.summary["steps"] == steps and torch.equal(kept, c.embeddings) and same(taught(tmp / "run"))

    return run


for when in (1, 2, 4):
    case(f"stop during save {when}", stopped_while_saving(when))


def broken_callback(tmp):
    "What a callback raises is passed on, and what was learnt is on the disk."
    try:
        taught(tmp / "run", [at(3, lambda: {}["nothing"])], save_steps=0)
        return False
    except KeyError:
        return same(taught(tmp / "run"))


case("an error in a callback", broken_callback)


# ---- reports of benchmarks ---------------------------------------------------------------------------------------
def old_report_stays(tmp):
    write_report(tmp / "report.json", dict(scores=[1, 2]))
    before = (tmp / "report.json").read_bytes()
    try:
        with small_disk():
            write_report(tmp / "report.json", dict(scores=[3] * 10_000))
        return False
    except OSError:
        return (tmp / "report.json").read_bytes() == before and len(list(tmp.iterdir())) == 1


case("disk full while a report is written", old_report_stays)


def longer(tmp):
    "Killed in the second half of a run that goes on: 3 steps, then 6, stopped at 4."
    taught(tmp / "run", recipe=replace(SHORT, steps=3))
    whole = taught(shutil.copytree(tmp / "run", tmp / "whole"))
    taught(tmp / "run", [lambda learner: learner.global_step == 4])
    return torch.allclose(taught(tmp / "run").embeddings, whole.embeddings, atol=1e-5)


case("stopped in the second run of a folder", longer)
