"""The course's assignments as files to hand out, made by Otter Assign in an environment of its own:

python tools/course.py env VENV | build VENV dist/course | grade VENV autograder.zip SUBMISSION | table |
alike SUBMISSIONS [student.ipynb]

A submission is a notebook, or a folder or zip file that holds one notebook and what belongs to it."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ASSIGNMENTS = ROOT / "nbs" / "assignments"
OTTER = "otter-grader==7.0.0"
MEASURED = ROOT / "dist" / "course-measured"  # what `measure` found, one file for each assignment
RULES = dict(A1="mask", A2="flow", A3="token", A4="replay", A5="metric", A6="project")  # which rules an assignment has
SETTINGS = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def env(venv):
    "An environment with Otter, which sees the project and the packages of the environment that runs this file."
    venv = Path(venv)
    if not (venv / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin" / "pip", "install", "-q", OTTER], check=True)
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    out = subprocess.run([venv / "bin" / "python", "-c", ask], check=True, capture_output=True, text=True)
    paths = f"{ROOT}\n{sysconfig.get_paths()['purelib']}\n"
    (Path(out.stdout.strip()) / "omnipersona.pth").write_text(paths, encoding="utf-8")


def masters():
    "The assignments as their authors wrote them."
    return sorted(ASSIGNMENTS.glob("A*.ipynb"))


def build(venv, to, only=None):
    "Student notebooks, autograder zips and solutions, each in a folder of its own. Solutions are run first."
    to = Path(to)
    shutil.rmtree(to, ignore_errors=True)
    for kind in ("student", "autograder", "solution"):
        (to / kind).mkdir(parents=True)
    for nb in only or masters():
        with tempfile.TemporaryDirectory() as tmp:
            command = [Path(venv).absolute() / "bin" / "otter", "assign", nb, tmp, "--no-pdfs"]
            run = subprocess.run(command, env=SETTINGS, capture_output=True, text=True)
            if run.returncode:
                sys.exit(f"{nb.name}: {run.stdout[-3000:]}{run.stderr[-3000:]}")
            shutil.copy(next(Path(tmp, "student").glob("*.ipynb")), to / "student" / nb.name)
            shutil.copy(Path(tmp, "autograder", nb.name), to / "solution" / nb.name)
            shutil.copy(next(Path(tmp, "autograder").glob("*.zip")), to / "autograder" / f"{nb.stem}.zip")
        print(nb.stem, "made")


def for_otter(submission, tmp):
    "A submission in a file that Otter reads: the notebook, or a zip file made anew where there is more."
    from_student = Path(submission)
    if from_student.suffix == ".ipynb" and from_student.is_file() and not from_student.is_symlink():
        return Path(shutil.copy(from_student, tmp))
    from omnipersona.basics import OmniError
    from omnipersona.course.submissions import packed_submission

    made = Path(tmp, "submission.zip")
    try:
        made.write_bytes(packed_submission(from_student))
    except OmniError as e:
        sys.exit(f"{from_student.name}: {e}")
    return made


def grade(venv, autograder, submission, student=""):
    "Grade a submission: {name of the question: share of its points}, and what the student reads, by question."
    with tempfile.TemporaryDirectory() as tmp:
        ready = for_otter(submission, tmp)
        command = [Path(venv).absolute() / "bin" / "otter", "run", "-a", Path(autograder).absolute(), "-o", tmp]
        command += ["--no-logo", ready]
        settings = SETTINGS | ({"OMNIPERSONA_STUDENT": student} if student else {})
        run = subprocess.run(command, env=settings, capture_output=True, text=True, cwd=tmp)
        if run.returncode:
            sys.exit(run.stdout[-3000:] + run.stderr[-3000:])
        tests = json.loads(Path(tmp, "results.json").read_text(encoding="utf-8"))["tests"]
    tests = [t for t in tests if t.get("max_score")]
    return {t["name"]: t["score"] / t["max_score"] for t in tests}, {t["name"]: t["output"] for t in tests}


def reading(solution, name, to):
    "A solution whose author also calls the function that holds the answers; written to the file `to`."
    kind = RULES[name]
    call = f"\\nfrom omnipersona.course.{kind}_rules import {kind}_rule\\nprint({kind}_rule(STUDENT))"
    text = Path(solution).read_text(encoding="utf-8")
    to.write_text(text.replace('STUDENT = \\"instructor\\"', f'STUDENT = \\"instructor\\"{call}'), encoding="utf-8")
    return to


def measure(venv, made, nb, copier="bob3"):
    "What grading gives for a solution, the student version, a copied notebook, and one that reads the answers."
    zipped, solution = made / "autograder" / f"{nb.stem}.zip", made / "solution" / nb.name
    start, used = time.monotonic(), sum(os.times()[2:4])
    right, words = grade(venv, zipped, solution)
    seconds, cpu = time.monotonic() - start, sum(os.times()[2:4]) - used
    empty, _ = grade(venv, zipped, made / "student" / nb.name)
    copied, refused = grade(venv, zipped, solution, copier)
    with tempfile.TemporaryDirectory() as tmp:
        read, told = grade(venv, zipped, reading(solution, nb.stem[:2], Path(tmp, nb.name)))

    def share(shares):
        return sum(shares.values()) / len(shares)

    found = dict(
        solution=share(right),
        student=share(empty),
        copied=not any(copied.values()) and all(f"handed in by '{copier}'" in s for s in refused.values()),
        reading=not any(read.values()) and all("answers of the checks are read" in s for s in told.values()),
        seconds=round(seconds, 1),
        cpu=round(cpu, 1),  # seconds of one core
        said={k: s for k, s in words.items() if right[k] < 1},
    )
    MEASURED.mkdir(parents=True, exist_ok=True)
    (MEASURED / f"{nb.stem[:2]}.json").write_text(json.dumps(found), encoding="utf-8")
    return found


def table():
    "Print what `measure` found, and how many wrong solutions are named by the message that a student reads."
    sys.path[:0] = [str(ROOT / "tests")]
    import zoo

    head = ("", "solution", "student version", "wrong, named", "copied", "answers read", "seconds to grade", "of CPU")
    line = "{:4}{:>10}{:>17}{:>14}{:>9}{:>14}{:>18}{:>8}"
    print(line.format(*head))
    all_named = all_wrong = 0
    for nb, wrongs in zoo.ZOOS.items():
        reports = [(zoo.report_on(nb, w), w) for w in wrongs]
        named = sum(not r.passed and w[3] in str(r) for r, w in reports)
        all_named, all_wrong = all_named + named, all_wrong + len(wrongs)
        file = MEASURED / f"{nb.stem[:2]}.json"
        m = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        shares = [f"{m[k]:.0%}" if m else "not run" for k in ("solution", "student")]
        refused = ["refused" if m.get(k) else "NOT REFUSED" if m else "not run" for k in ("copied", "reading")]
        times = [m.get(k, "not run") for k in ("seconds", "cpu")]
        print(line.format(nb.stem[:2], *shares, f"{named} of {len(wrongs)}", *refused, *times))
    print(line.format("all", "", "", f"{all_named} of {all_wrong}", "", "", "", ""))


def alike(submissions, handed_out=None):
    "Print the functions that two notebooks of a class have in common: a reason to ask, and no proof."
    from omnipersona.basics import OmniError
    from omnipersona.course import copies
    from omnipersona.course import submissions as handed_in

    with tempfile.TemporaryDirectory() as tmp:
        for student, entries in handed_in.submissions(submissions).items():
            for k, entry in enumerate(entries):
                try:
                    notebook = next(iter(handed_in.submission_files(entry).values()))
                except OmniError as e:
                    print(f"{entry.name} is left out: {e}")
                    continue
                Path(tmp, f"{student}{f' ({k + 1})' if k else ''}.ipynb").write_bytes(notebook)
        pairs = copies.alike(tmp, handed_out)
    print(*pairs or ["No two notebooks have a function in common."], sep="\n")


# ---- Otter's markers, for tests where Otter is not installed --------------------------------------------------------
def _student_source(source):
    "A code cell as a student gets it: without solutions, with prompts."
    source = re.sub(r"^ *# BEGIN SOLUTION.*?^ *# END SOLUTION *\n?", "", source, flags=re.M | re.S)
    return re.sub(r'^ *"""? *#? *(# )?(BEGIN|END) PROMPT *\n?|^ *""" # (BEGIN|END) PROMPT *\n?', "", source, flags=re.M)


def student_version(nb):
    "The cells (kind, source) of an assignment that a student gets, by Otter's markers."
    skip, solution, out = False, False, []
    for c in json.loads(Path(nb).read_text(encoding="utf-8"))["cells"]:
        source = "".join(c["source"])
        if c["cell_type"] == "raw":
            skip = {"# BEGIN TESTS": True, "# END TESTS": False}.get(source.strip(), skip)
            solution = {"# BEGIN SOLUTION": True, "# END SOLUTION": False}.get(source.strip(), solution)
        elif not skip and not (solution and c["cell_type"] == "markdown"):
            out.append((c["cell_type"], _student_source(source) if c["cell_type"] == "code" else source))
    return out


def solution_lines(nb):
    "The lines that a student must not see: of solutions in code, and of solutions in words."
    solution, out = False, []
    for c in json.loads(Path(nb).read_text(encoding="utf-8"))["cells"]:
        source = "".join(c["source"])
        if c["cell_type"] == "raw":
            solution = {"# BEGIN SOLUTION": True, "# END SOLUTION": False}.get(source.strip(), solution)
        elif solution and c["cell_type"] == "markdown":
            out += source.splitlines()
        elif c["cell_type"] == "code":
            for block in re.findall(r"# BEGIN SOLUTION[^\n]*\n(.*?)# END SOLUTION", source, flags=re.S):
                out += block.splitlines()
    return [line.strip() for line in out if len(line.strip()) > 24]


def texts(path):
    "Everything that can be read in a file: of a notebook its JSON, of a zip all its files."
    if path.suffix != ".zip":
        return path.read_text(encoding="utf-8")
    with zipfile.ZipFile(path) as z:
        return "\n".join(z.read(n).decode("utf-8", "replace") for n in z.namelist())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    done = dict(env=env, build=build, grade=grade, table=table, alike=alike)[sys.argv[1]](*sys.argv[2:])
    if done:
        print(json.dumps(done[0], indent=1), *(f"{k}: {v}" for k, v in done[1].items()), sep="\n")
