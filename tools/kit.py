"""The instructor's kit: everything that `make course` adds to the assignments, and the grading of a whole class.

python tools/kit.py make dist/course | slides FOLDER | grade VENV AUTOGRADER.zip SUBMISSIONS OUT.csv [JOBS]"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 900  # seconds that one submission may take
EXAMPLE = dict(ada7="oona", bob3="bruno", cyn9="pip", dee2="nika", eli5="otto", fay4="finn", gus8="mila", hana6="luna")


def guide(folder):
    "The instructor's guide as a page that opens without Jupyter."
    from nbconvert import HTMLExporter

    export = HTMLExporter(template_name="lab", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = export.from_filename(str(ROOT / "nbs" / "instructor.ipynb"))
    out = Path(folder) / "instructor.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(body, encoding="utf-8")
    return out


def example_class(folder):
    "A class to try the atlas with: the course's own concepts as eight students would hand them in, and one bad folder."
    from omnipersona.course.course_concepts import FOLDERS, course_entry

    hand_in, seeds = Path(folder) / "hand_in", {}
    for student, name in EXAMPLE.items():
        entry = course_entry(name)
        if not (FOLDERS / entry.folder).is_dir():
            continue
        shutil.copytree(FOLDERS / entry.folder, hand_in / student)
        seeds[student] = entry.character
    if not seeds:
        return None
    (hand_in / "ivo1").mkdir()
    (hand_in / "ivo1" / "notes.txt").write_text("I will hand it in tomorrow.\n", encoding="utf-8")
    (hand_in / "characters.json").write_text(json.dumps(seeds, indent=1) + "\n", encoding="utf-8")
    return hand_in


def make(to):
    "The guide, the slides and an example of the atlas, each in a folder of its own."
    from omnipersona.course.atlas import class_atlas
    from omnipersona.course.slides import write_slides

    to = Path(to)
    for kind in ("guide", "slides", "atlas"):
        shutil.rmtree(to / kind, ignore_errors=True)
    guide(to / "guide")
    write_slides(to / "slides")
    if hand_in := example_class(to / "atlas"):
        class_atlas(hand_in, to / "atlas" / "class.html")
        shutil.rmtree(to / "atlas" / "class.parts", ignore_errors=True)
    else:
        print("no example of the atlas: the concepts of the course are not in this installation")


# ---- a whole class --------------------------------------------------------------------------------------------------
def grade_one(venv, autograder, student, entries):
    "(shares of the questions, seconds, why it has none): one submission in a process of its own, with a time limit."
    if len(entries) > 1:
        return {}, 0, f"handed in twice ({', '.join(e.name for e in entries)}): keep one, or put both into one folder"
    begun = time.monotonic()
    command = [sys.executable, ROOT / "tools" / "course.py", "grade", venv, autograder, entries[0]]
    env = os.environ | {"OMNIPERSONA_STUDENT": student, "OMP_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    with subprocess.Popen(list(map(str, command)), **pipes) as run:
        try:
            said, complaint = run.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            return {}, time.monotonic() - begun, f"not finished after {LIMIT} seconds"
    seconds = time.monotonic() - begun
    try:
        return json.JSONDecoder().raw_decode(said)[0], seconds, ""
    except ValueError:
        last = (complaint or said).strip().splitlines()[-1:] or ["no result"]
        return {}, seconds, re.sub(r"\s+", " ", last[0])[:200]


def grade(venv, autograder, handed_in, out, jobs=2):
    """Grade a folder with one entry a student: a notebook, or a zip file or folder with the notebook and its project.

    The name of the entry is the student's id. A CSV file gets one row a student. Students who have a row already are
    left out, so an interrupted run goes on; one that fails is named in its row."""
    from omnipersona.course.submissions import submissions

    out, used = Path(out), sum(os.times()[2:4])
    done = {row["student"] for row in csv.DictReader(out.open(encoding="utf-8"))} if out.exists() else set()
    todo = [item for item in submissions(handed_in).items() if item[0] not in done]
    head = ("student", "score", "seconds", "problem", "questions")
    if not out.exists():
        out.write_text(",".join(head) + "\n", encoding="utf-8")
    with ThreadPoolExecutor(int(jobs)) as pool:
        results = pool.map(lambda item: grade_one(venv, autograder, *item), todo)
        for k, ((student, _), (shares, seconds, problem)) in enumerate(zip(todo, results), 1):
            score = sum(shares.values()) / len(shares) if shares else 0.0
            told = "; ".join(f"{q} {share:.0%}" for q, share in shares.items())
            with out.open("a", encoding="utf-8", newline="") as f:
                csv.writer(f).writerow((student, f"{score:.3f}", f"{seconds:.0f}", problem, told))
            print(f"{k} of {len(todo)}: {student} {score:.0%} in {seconds:.0f} s {problem}", flush=True)
    if todo:
        print(f"{(sum(os.times()[2:4]) - used) / len(todo):.1f} seconds of one core for each")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.path.insert(0, str(ROOT))
    if sys.argv[1] == "slides":
        from omnipersona.course.slides import write_slides

        write_slides(sys.argv[2])
    else:
        dict(make=make, grade=grade)[sys.argv[1]](*sys.argv[2:])
