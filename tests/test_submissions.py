"What students hand in with a notebook: read from a folder, a zip file or a zip file in a folder, and nothing unsafe."

import io
import json
import os
import stat
import zipfile

import course
import pytest
from zoo import A5, A6, POOLS, functions, pretended

from omnipersona.arguments import OmniError
from omnipersona.course import project_checks, project_rules, submissions
from omnipersona.stored import MOST_ENTRIES, unpacked

OTTER = course.ROOT / ".venv-otter"
STUDENT = "ada7"


def zipped(entries):
    "A zip file with these files."
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in entries.items():
            z.writestr(name, content)
    return out.getvalue()


def files_in(folder):
    "{path in the folder: content}."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def laid_out(files, folder):
    "The files, written into a folder."
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "{path: content} of a right project of A6, as its notebook writes it."
    mine = functions(A6, STUDENT)
    three = (mine[k] for k in ("my_album", "my_results", "my_summary"))
    folder = tmp_path_factory.mktemp("made") / "project"
    return files_in(project_rules.make_project(folder, STUDENT, POOLS(STUDENT), pretended, *three))


def ways(project):
    "The ways in which students pack a notebook and the folder `project`."
    inside, notebook = {f"project/{k}": v for k, v in project.items()}, {"A6_your_own_study.ipynb": b"{}"}
    alone = zipped(inside)
    mac = {f"__MACOSX/{k}": b"?" for k in inside} | {".DS_Store": b"?", ".ipynb_checkpoints/A6-checkpoint.ipynb": b"{}"}
    return {
        "side by side": notebook | inside,
        "in a folder of their own": {f"ada7/{k}": v for k, v in (notebook | inside).items()},
        "packed by Windows": {f"ada7\\{k}".replace("/", "\\"): v for k, v in (notebook | inside).items()},
        "packed by macOS": notebook | inside | mac,
        "project.zip beside the notebook": notebook | {"project.zip": alone},
        "project.zip of the content alone": notebook | {"project.zip": zipped(project)},
        "the content without its folder": notebook | project,
        "in two folders": {f"notebooks/{k}": v for k, v in notebook.items()} | inside,
    }


@pytest.mark.parametrize("way", ways({}))
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_the_grader_finds_the_project(way, kind, project, tmp_path):
    "However it was packed, the checks read it beside the notebook."
    files = ways(project)[way]
    if kind == "zip":
        handed = tmp_path / "ada7.zip"
        handed.write_bytes(zipped(files))
    else:
        handed = laid_out({k.replace("\\", "/"): v for k, v in files.items()}, tmp_path / "ada7")
    found = submissions.submission_files(handed)
    assert next(iter(found)) == "A6_your_own_study.ipynb" and not any("checkpoint" in k or "MACOSX" in k for k in found)
    there = laid_out(found, tmp_path / "graded") / "project"
    for check in (project_checks.check_album, project_checks.check_results, project_checks.check_summary):
        assert check(there, STUDENT).passed, str(check(there, STUDENT))


def test_a_notebook_alone_is_a_submission(tmp_path):
    (tmp_path / "bob3.ipynb").write_text("{}")
    assert submissions.submission_files(tmp_path / "bob3.ipynb") == {"bob3.ipynb": b"{}"}


def test_what_belongs_to_the_notebook_comes_with_it_and_code_does_not(tmp_path):
    "Photos and a concept's folder do; a module, a pickle and Otter's own files do not."
    kept = {"photos/cup 1.JPG": b"1", "concept/concept.json": b"{}", "concept/adapter_model.safetensors": b"2"}
    left = {
        "torch.py": b"evil",
        "omnipersona/__init__.py": b"evil",
        "w.pt": b"evil",
        "setup.sh": b"",
        ".OTTER_LOG": b"",
    }
    (tmp_path / "a.zip").write_bytes(zipped({"A6.ipynb": b"{}"} | kept | left))
    laid_out({"A6.ipynb": b"{}"} | kept | left, tmp_path / "a")
    for handed in ("a.zip", "a"):
        assert submissions.submission_files(tmp_path / handed) == {"A6.ipynb": b"{}"} | kept


def link(to):
    "An entry of a zip file that is a symbolic link, as `zip -y` writes it."
    info = zipfile.ZipInfo("project/report.json")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return {info: to}


HOSTILE = {
    "climbs out": {"../../../report.json": b"{}"},
    "climbs out ": {"/etc/cron.d/x.txt": b"{}"},
    "climbs out  ": {"C:\\x.txt": b"{}"},
    "is a link or a device": link(b"/etc/passwd"),
    "more than 64,000,000 bytes": {"project/a.png": bytes(submissions.MOST_SUBMITTED)},
    "files are in it": {f"project/{k}.png": b"" for k in range(MOST_ENTRIES + 1)},
    "not a readable zip file": {"project.zip": b"no zip file"},
    "more than 63,": {"p.zip": zipped({"a.png": bytes(submissions.MOST_SUBMITTED)})},
    "more than 1,": {
        f"p{k}.zip": zipped({"a.png": bytes(submissions.MOST_SUBMITTED // 2 - 999_999)}) for k in range(3)
    },
    "2 notebooks": {"old/A6.ipynb": b"{}"},
}


@pytest.mark.parametrize("said", HOSTILE)
def test_a_zip_file_from_anybody(said, tmp_path):
    "Refused with a reason, and nothing is written."
    (tmp_path / "a.zip").write_bytes(zipped({"A6.ipynb": b"{}"} | HOSTILE[said]))
    with pytest.raises(OmniError, match=said.strip()):
        submissions.packed_submission(tmp_path / "a.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_folder_from_anybody(tmp_path):
    "No link is followed, whatever it leads to; no pipe is opened; no folder is read for ever."
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    for k, (name, to) in enumerate({"project": tmp_path, "report.json": secret, "A6.ipynb": secret}.items()):
        folder = tmp_path / f"s{k}"
        folder.mkdir()
        if name != "A6.ipynb":
            (folder / "A6.ipynb").write_text("{}")
        (folder / name).symlink_to(to)
        with pytest.raises(OmniError, match="symbolic link"):
            submissions.submission_files(folder)
    (tmp_path / "s9").symlink_to(tmp_path / "s0")
    with pytest.raises(OmniError, match="symbolic link"):
        submissions.submission_files(tmp_path / "s9")
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / "A6.ipynb").write_text("{}")
    os.mkfifo(tmp_path / "pipe" / "a.json")
    assert submissions.submission_files(tmp_path / "pipe") == {"A6.ipynb": b"{}"}
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "secret.json", "missing.zip", "missing"):
        with pytest.raises(OmniError):
            submissions.submission_files(tmp_path / nothing)


def test_two_reports_are_not_guessed(tmp_path):
    "A project that does not lie beside the notebook is only found where there is one."
    files = {"A6.ipynb": b"{}", "try1/report.json": b"1", "try2/report.json": b"2"}
    (tmp_path / "a.zip").write_bytes(zipped(files))
    assert "project/report.json" not in submissions.submission_files(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(zipped(files | {"project/report.json": b"3"}))
    assert submissions.submission_files(tmp_path / "a.zip")["project/report.json"] == b"3"


def test_what_otter_gets_is_made_anew(project, tmp_path):
    "The notebook lies at the top, whatever the student's zip file looks like."
    (tmp_path / "ada7.zip").write_bytes(zipped(ways(project)["packed by Windows"]))
    made = course.for_otter(tmp_path / "ada7.zip", tmp_path)
    again = unpacked(made.read_bytes(), submissions.TAKEN, "made")
    assert {k for k in again if k.endswith(".ipynb")} == {"A6_your_own_study.ipynb"} and len(again) == 1 + len(project)
    (tmp_path / "bob3.zip").write_bytes(b"no zip file")
    with pytest.raises(SystemExit, match="bob3.zip: .*not a readable zip file"):
        course.for_otter(tmp_path / "bob3.zip", tmp_path)


def test_notebooks_in_zip_files_are_compared_too(tmp_path, capsys):
    text = A5.read_text(encoding="utf-8").replace("instructor", "somebody")
    (tmp_path / "ada7.ipynb").write_text(text, encoding="utf-8")
    (tmp_path / "bob3.zip").write_bytes(zipped({"mine/A5.ipynb": text, "mine/notes.txt": "hello"}))
    (tmp_path / "cyn9.zip").write_bytes(b"no zip file")
    course.alike(tmp_path)
    said = capsys.readouterr().out
    assert "my_p: ada7.ipynb and bob3.ipynb" in said and "cyn9.zip is left out: " in said


@pytest.mark.trust
def test_a_project_from_a_gpu_is_graded_as_it_was_handed_in(project, tmp_path):
    "Its notebook leaves the folder alone (`AGAIN = False`): all points with the folder, none without it."
    if not (OTTER / "bin" / "otter").exists():
        pytest.skip("needs .venv-otter: make course")
    course.build(OTTER, tmp_path / "course", only=[A6])
    text = (tmp_path / "course" / "solution" / A6.name).read_text(encoding="utf-8")
    text = text.replace('\\"instructor\\"', f'\\"{STUDENT}\\"').replace('"AGAIN = True', '"AGAIN = False')
    assert "AGAIN = False" in text
    inside = {f"project/{k}": v for k, v in project.items()}
    autograder = tmp_path / "course" / "autograder" / f"{A6.stem}.zip"
    for name, files, share in (("with", inside, 1.0), ("without", {}, 0.0)):
        handed = tmp_path / f"{name}.zip"
        handed.write_bytes(zipped({"A6.ipynb": text} | files))
        shares, said = course.grade(OTTER, autograder, handed, STUDENT)
        assert set(shares.values()) == {share}, json.dumps(said, indent=1)
