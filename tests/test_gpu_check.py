"""`make gpu-check`, rehearsed without a card: the same code with a tiny model on the CPU.

A CPU has no card's memory, so the peaks are stand-ins that say so. Where a test needs it, a card is imitated."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from omnipersona.arguments import OmniError
from omnipersona.bench import gpu_check, gpu_files, gpu_limits, gpu_machine, gpu_numbers, gpu_runs
from omnipersona.bench.gpu_check import LIMITS, PIECE_GROUPS, CheckOptions, main, run_inside, to_do
from omnipersona.bench.gpu_measure import REAL, REHEARSAL, STUB, HostMemory, noise_picture, random_model
from omnipersona.bench.gpu_report import GpuReport, PieceRows, all_is_well, demand, report_table, skip
from omnipersona.model.memory import plan

HERE = ["--rehearsal", "--device=cpu"]
LONG = dict.fromkeys(LIMITS, 3600.0)  # no test depends on how busy a machine is


@pytest.fixture
def options(tmp_path):
    return CheckOptions(tmp_path / "out", tmp_path / "scratch", "cpu", True, LONG)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    "Every piece, run once in this process, with a network that does not answer."
    import socket

    def refuse(*given):
        raise OSError("the check asked for the network")

    folder, was = tmp_path_factory.mktemp("gpu"), socket.socket.connect
    options = CheckOptions(folder / "out", folder / "scratch", "cpu", True, LONG)
    socket.socket.connect = refuse
    try:
        for piece in LIMITS:
            run_inside(piece, options)
    finally:
        socket.socket.connect = was
    return options


def rows_of(options, piece):
    return options.report.read()["pieces"][piece]["rows"]


# ---- the whole check ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("piece", LIMITS)
def test_every_piece_runs_on_the_cpu(rehearsed, piece):
    "Each writes rows; each row has a verdict, its seconds, and numbers or a reason; nothing fails."
    entry = rehearsed.report.read()["pieces"][piece]
    assert entry["complete"] and entry["rows"] and entry["card"].startswith("no card")
    bad = [(r["what"], r.get("failed"), r.get("error")) for r in entry["rows"] if r["ok"] is False]
    assert not bad
    assert all(r.get("said") or r.get("skipped") for r in entry["rows"])


def test_one_json_and_one_table(rehearsed):
    report = json.loads(rehearsed.report.path.read_text(encoding="utf-8"))
    assert list(report["pieces"]) == list(LIMITS) and all_is_well(report, tuple(LIMITS))
    assert {"card", "driver", "torch", "free_disk_gb", "rates", "commit", "version", "code"} <= set(report["machine"])
    table = report_table(report, tuple(LIMITS))
    assert "no complaints" in table and all(f"\n{p:8} " in table for p in LIMITS)
    assert rehearsed.report.path.stat().st_size < 1e6, "it must come back from a borrowed machine"


def test_peaks_without_a_card_say_that_they_are_stand_ins(rehearsed):
    measured = [r for p in ("t4", "l4", "a100", "load") for r in rows_of(rehearsed, p) if "peak_gb" in r]
    assert measured and all(r["measured"] == STUB for r in measured)
    assert not any("planned_gb" in r for r in measured), "a tiny model is not compared with the plan of a large one"


def test_all_sizes_and_jobs_are_there(rehearsed):
    for card in ("t4", "l4", "a100"):
        jobs = {r["what"] for r in rows_of(rehearsed, card)}
        assert {f"learning, {s} pixels" for s in REHEARSAL.learning} <= jobs
        assert {f"{job}, {s} pixels" for job in ("asking", "drawing", "editing") for s in REHEARSAL.drawing} <= jobs
    assert (REAL.learning, REAL.drawing, REAL.speed) == ((256, 512), (512, 1024), (256, 512, 1024)) and REAL.steps == 40
    kinds = {r["what"] for r in rows_of(rehearsed, "same")}
    assert kinds == {f"{q}, {d}" for q in ("not quantised", "nf4") for d in ("bfloat16", "float16")}
    assert {r["what"] for r in rows_of(rehearsed, "speed")} >= {"learning, 32 pixels", "drawing, 32 pixels, compiled"}
    ways = {r["what"]: r["apart"] for r in rows_of(rehearsed, "speed") if r["what"].startswith("a guided step")}
    assert len(ways) == 3 and max(ways.values()) < 1e-5 and "a guided step, in one pass, as a CUDA graph" in ways


def test_a_saved_four_bit_folder_is_the_same_model(rehearsed):
    (row,) = rows_of(rehearsed, "reload")
    assert ", 0 of " in row["said"] and row["host_gb"] < 2.5


def test_an_interrupted_run_gives_the_same_log(rehearsed):
    falls, resumed = rows_of(rehearsed, "resume")
    assert falls["total"][-1] < falls["total"][0] and resumed["bit_equal"]
    assert resumed["stopped_at"] == REHEARSAL.steps // 2 and resumed["steps"] == REHEARSAL.steps


def test_limits_fit_a_borrowed_machine():
    "Under 25 minutes in all, each command under nine; every piece is in one group."
    assert sum(LIMITS.values()) < 25 * 60 and all(sum(LIMITS[p] for p in g) < 9 * 60 for g in PIECE_GROUPS.values())
    assert sorted(p for g in PIECE_GROUPS.values() for p in g) == sorted(LIMITS)


# ---- interruptions and errors -------------------------------------------------------------------------------------
def command(*arguments, timeout=1800):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "omnipersona.bench.gpu_check", *map(str, arguments)]
    return subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout)


def test_a_piece_over_its_limit_is_ended_and_repeated(tmp_path):
    "What was not finished is run again; what was finished is kept."
    where = (*HERE, f"--out={tmp_path / 'out'}", f"--scratch={tmp_path / 'scratch'}")
    first = command("machine", "float16", *where, "--limit=float16=0.05")
    report = GpuReport(tmp_path / "out" / "rehearsal")
    assert first.returncode == 1 and "its limit of 0.05 seconds was over" in first.stdout
    assert report.done("machine") and not report.done("float16")
    assert (
        "float16  not finished" in report_table(report.read()) and (tmp_path / "out/rehearsal/gpu-check.txt").exists()
    )
    before = report.read()["pieces"]["machine"]
    second = command("machine", "float16", *where)
    assert second.returncode == 0, second.stdout + second.stderr
    assert report.done("float16") and report.read()["pieces"]["machine"] == before
    assert not list((tmp_path / "out").rglob("*.part"))


def test_an_error_is_recorded_and_the_others_go_on(options, monkeypatch):
    def full(*given):
        raise MemoryError("no more memory")

    monkeypatch.setitem(gpu_limits.JOBS, "asking", full)
    monkeypatch.setitem(gpu_limits.JOBS, "drawing", lambda *given: 1 / 0)
    run_inside("l4", options)
    rows = {r["what"]: r for r in rows_of(options, "l4")}
    assert rows["asking, 64 pixels"]["out_of_memory"] and rows["editing, 128 pixels"]["ok"]
    assert rows["drawing, 64 pixels"]["error"].startswith("ZeroDivisionError") and rows["drawing, 64 pixels"]["where"]
    report = options.report.read()
    assert "ZeroDivisionError" in report_table(report) and not all_is_well(report, ("l4",))


def test_an_error_outside_of_a_row_is_recorded_too(options, monkeypatch):
    monkeypatch.setattr(gpu_numbers, "random_checkpoint", lambda *given, **more: 1 / 0)
    entry = run_inside("same", options)
    assert entry["complete"] and entry["rows"][-1]["error"].startswith("ZeroDivisionError")


def test_an_error_holds_no_memory(tmp_path):
    "The traceback of an error would keep the tensors of all its frames."
    import weakref

    rows, seen = PieceRows(GpuReport(tmp_path), "x"), []

    def run():
        big = torch.ones(10, dtype=torch.float32, device="cpu")
        seen.append(weakref.ref(big))
        raise RuntimeError("CUDA out of memory")

    with rows.row("a") as row:
        run()
    assert row["ok"] is False and seen[0]() is None


def test_verdicts(tmp_path):
    rows = PieceRows(GpuReport(tmp_path), "x")
    with rows.row("met") as met:
        demand(met, True, "one")
    with rows.row("not met") as missed:
        demand(missed, False, "one")
        demand(missed, False, "two")
    with rows.row("skipped") as skipped:
        skip(skipped, "a small card")
    assert (met["ok"], missed["ok"], skipped["ok"]) == (True, False, None) and missed["failed"] == ["one", "two"]


def test_a_row_without_time_is_skipped(tmp_path):
    rows = PieceRows(GpuReport(tmp_path), "x", limit=10)
    with rows.row("a") as row:
        assert rows.has_time(row, 5)
    with rows.row("b") as late:
        assert not rows.has_time(late, 20)
    assert row["ok"] and late["ok"] is None and "were left of 10" in late["skipped"]


def test_a_damaged_report_is_not_written_over(options):
    options.report.path.parent.mkdir(parents=True)
    options.report.path.write_text("{", encoding="utf-8")
    with pytest.raises(OmniError, match="no report of a check.*another folder"):
        options.report.put("t4", {})
    assert options.report.path.read_text() == "{"


def test_what_a_piece_needs_runs_before_it(options):
    assert to_do(["reload"], options) == ["write", "load", "reload"]
    (options.scratch / "bagel-random").mkdir(parents=True)
    (options.scratch / "bagel-random" / "ema.safetensors").touch()
    assert to_do(["reload"], options) == ["load", "reload"]
    (options.scratch / "saved-nf4.sums.json").touch()
    assert to_do(["second"], options) == ["write", "load", "reload"] and to_do(["reload"], options) == ["reload"]


def test_an_unknown_piece_or_limit_is_refused():
    for arguments in (["t5"], ["--limit=t4"], ["--limit=t5=3"], ["--limit=t4=soon"]):
        with pytest.raises(SystemExit, match="t4"):
            main(arguments)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_needs_no_environment():
    "On a borrowed machine there is no .venv, and none can be made: the target takes the machine's own Python."
    run = ["make", "-n", "gpu-check", "VENV=not-there", "PIECES=first", "OUT=here", "ARGS=--preflight"]
    env = {k: v for k, v in os.environ.items() if "MAKE" not in k and k != "MFLAGS"}  # this may run inside make
    said = subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    assert said.split() == "python3 -m omnipersona.bench.gpu_check first --out here --preflight".split()


# ---- what is missing ----------------------------------------------------------------------------------------------
def test_without_a_card_it_says_so_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["machine", f"--out={tmp_path / 'out'}", f"--scratch={tmp_path}"]) == 2
    assert "sees no NVIDIA card" in capsys.readouterr().out and not (tmp_path / "out").exists()


BARE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers", "bitsandbytes", "numpy", "transformers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
from omnipersona.bench.gpu_check import main
sys.exit(main(["--preflight", f"--out={sys.argv[1]}", f"--scratch={sys.argv[1]}"]))
"""


def test_a_bare_python_is_told_what_to_install(tmp_path):
    "Without PyTorch and all the others, the command still runs, and names every package."
    run = subprocess.run([sys.executable, "-c", BARE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    assert all(f"pip install {p}\n" in run.stdout for p in ("torch", "diffusers", "bitsandbytes", "numpy"))


def test_too_small_a_disk_is_said_before(tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda p: usage(64e9, 34e9, 30e9))
    missing = gpu_machine.preflight("cpu", {tmp_path: gpu_check._disk_gb(["load"], CheckOptions(tmp_path, tmp_path))})
    assert len(missing) == 1 and "needs 41.6 GB, and 30.0 GB are free there" in missing[0]
    with pytest.raises(OmniError, match="the checkpoint needs .* are free there; nothing was written"):
        monkeypatch.setattr(shutil, "disk_usage", lambda p: usage(1, 1, 0))
        gpu_files.tiled_checkpoint(tmp_path / "x", REHEARSAL.sizes, 100)


# ---- does it notice? ----------------------------------------------------------------------------------------------
def test_a_card_that_computes_something_else_is_noticed(options, monkeypatch):
    "The third backbone that is loaded is the card's; here a hundredth of one of its maps is wrong."
    loaded, load = [], gpu_numbers.load_backbone

    def wrong(*given, **more):
        bb = load(*given, **more)
        loaded.append(bb)
        if len(loaded) == 3:
            bb.model.llm2vae.weight.data.mul_(1.5)
            bb.model.connector.fc1.weight.data.mul_(1.5)
        return bb

    monkeypatch.setattr(gpu_numbers, "load_backbone", wrong)
    monkeypatch.setattr(gpu_numbers, "FORMATS", gpu_numbers.FORMATS[:1])
    (row,) = run_inside("same", options)["rows"]
    assert row["ok"] is False and any(text.startswith("understanding") for text in row["failed"])


def test_a_wrong_saved_folder_is_noticed(options):
    run_inside("load", options)
    known = options.scratch / "saved-nf4.sums.json"
    was = json.loads(known.read_text(encoding="utf-8"))
    changed = next(iter(was["sums"]))
    was["sums"][changed] = "another"
    known.write_text(json.dumps(was), encoding="utf-8")
    (row,) = run_inside("reload", options)["rows"]
    assert row["ok"] is False and changed in row["failed"][0]


def test_while_learning_the_encoders_wait_on_the_cpu(monkeypatch):
    "As the plan assumes; afterwards they are back."
    bb = random_model(REHEARSAL, "cpu", torch.float32, None)
    moves: list = []
    for encoder in (bb.model.vit_model, bb.ae):
        monkeypatch.setattr(encoder, "to", lambda where: moves.append(str(where)))
    monkeypatch.setattr(type(bb), "device", property(lambda self: torch.device("cuda")))
    gpu_limits.place_encoders(bb, "learning")
    assert bb.offload_encoders and bb.model.gradient_checkpointing and moves == ["cpu", "cpu"]
    gpu_limits.place_encoders(bb, "asking")
    assert not bb.offload_encoders and not bb.model.gradient_checkpointing and moves[2:] == ["cuda", "cuda"]


@pytest.mark.parametrize("card", gpu_limits.CARDS)
def test_the_real_scale_is_compared_with_its_plan(card):
    "Every job that is measured is planned, for the samples that are learnt from."
    p = gpu_limits._planned(gpu_limits.CARDS[card], REAL, 512)
    assert set(gpu_limits.JOBS) <= set(p.needs) and p.quant == gpu_limits.CARDS[card].quant
    for job in gpu_limits.JOBS:
        row = dict(peak_gb=p.needs[job], said="")
        gpu_limits.compare_plan(row, p, job)
        assert 0.8 < row["planned_of_measured"] < 1


def test_a_plan_that_calls_fits_what_does_not_is_noticed():
    p = plan("bagel-7b-mot", "T4", 256, "nf4", advise=False)
    job = next(k for k, fits in p.fits.items() if fits)
    row = dict(out_of_memory=True, said="")
    gpu_limits.compare_plan(row, p, job)
    assert "called 'fits'" in row["failed"][0]


def test_what_the_readme_promises_must_not_run_out_of_memory(options, monkeypatch):
    "On a T4, learning with 256 pixels and drawing with 512 is promised; drawing with 1,024 is not."
    assert (gpu_limits.CARDS["t4"].learns, gpu_limits.CARDS["t4"].draws) == (256, 512)

    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(gpu_limits.JOBS, "drawing", full)
    for side, promised in ((512, True), (1024, False)):
        row: dict = dict(what="drawing")
        bb = random_model(REHEARSAL, "cpu", torch.float32, None)
        monkeypatch.setattr(gpu_limits, "set_image_size", lambda bb, side: None)
        gpu_limits._one_job(row, bb, None, gpu_limits.CARDS["t4"], REHEARSAL, "drawing", side, "cpu")
        assert row["out_of_memory"] and bool(row.get("failed")) == promised


def test_a_run_that_does_not_go_on_is_noticed(options, monkeypatch):
    "A resumed run whose last loss is another one."
    real = gpu_runs.same_batch_run

    def another(bb, side, recipe, folder=None, stop_at=None):
        history = real(bb, side, recipe, folder, stop_at)
        if folder is not None and stop_at is None:
            history[-1]["draw"] *= 1.1
        return history

    monkeypatch.setattr(gpu_runs, "same_batch_run", another)
    entry = run_inside("resume", options)
    assert entry["rows"][0]["ok"] and entry["rows"][1]["failed"] and not entry["rows"][1]["bit_equal"]


# ---- files and memory ---------------------------------------------------------------------------------------------
def test_an_interrupted_file_leaves_nothing(tmp_path, monkeypatch):
    block = torch.ones(16, dtype=torch.bfloat16, device="cpu")
    monkeypatch.setattr(gpu_files.os, "fsync", lambda f: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        gpu_files.tiled_file(tmp_path / "ema.safetensors", {"a.weight": [8, 8]}, block)
    assert not list(tmp_path.iterdir())


def test_the_real_file_has_29_gb():
    assert 29.0 < gpu_files.checkpoint_gb(REAL.sizes) < 29.5


def test_host_memory_is_what_the_process_takes():
    with HostMemory() as m:
        torch.ones(50_000_000, dtype=torch.float32, device="cpu").sum()
    if m.more_gb is None:
        pytest.skip("this system does not say how much anonymous memory a process has")
    assert 0.15 < m.more_gb < 0.3


def test_pictures_are_the_same_everywhere():
    a, b = noise_picture(64, 3), noise_picture(64, 3)
    assert a.tobytes() == b.tobytes() != noise_picture(64, 4).tobytes() and a.size == (64, 64)
