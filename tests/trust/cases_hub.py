"""What the Hugging Face hub may answer, and what is sent to it. A small server on this machine stands for the hub.

Each case says how the server answers; `sent` counts what reached it."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants as hub
import torch

from omnipersona.concept.adapter import PARTS
from omnipersona.concept.concept import Concept
from omnipersona.concept.persona import Persona
from omnipersona.model.loading import load_backbone
from omnipersona.widgets.forms import open_concept
from trust.cases_archives import files
from trust.corpus import Case
from trust.material import bb

COMMITS = {"main": "a" * 40, "v1": "b" * 40}  # {branch or tag: commit}
OTHER_FACTS = b'"a red kite"', b'"a blue kite"'


def content(commit: str) -> dict[str, bytes]:
    "The repository's files at a commit: v1 knows another toy."
    if commit == COMMITS["v1"]:
        return {f: b.replace(*OTHER_FACTS) for f, b in files().items()}
    return files() | {"evil.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04", "README.md": b"hello"}


def tree(names) -> list[dict]:
    "What the hub answers when it is asked for a list of files: names, or {name: content}."
    sizes = {n: len(names[n]) if isinstance(names, dict) else 100 for n in names}
    return [dict(type="file", path=n, size=size, oid=f"{size:040d}") for n, size in sizes.items()]


class Hub(BaseHTTPRequestHandler):
    "Answers as `self.server.answers` says: {part of the path: (status, headers, body)}; otherwise as a hub does."

    def log_message(self, *args):
        pass

    def say(self, code, body, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | headers
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self):
        n = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(n) if n else b""
        self.server.sent.append((self.command, self.path, body))
        for part, answer in self.server.answers.items():
            if part in self.path:
                return answer(self) if callable(answer) else self.say(*answer)
        if "/resolve/" in self.path:
            return self.file()
        if "/tree/" in self.path:
            return self.say(200, tree(content(self.path.split("/tree/")[1].split("?")[0])))
        if self.command == "POST":
            return self.written(body)
        return self.about()

    do_GET = do_HEAD = do_POST = handle_any

    def about(self):
        revision = self.path.split("/revision/")[1].split("?")[0] if "/revision/" in self.path else "main"
        commit = COMMITS.get(revision, revision)
        if commit not in COMMITS.values():
            missing = dict(X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            return self.say(404, dict(error="Invalid rev id"), **missing)
        names = [dict(rfilename=f) for f in content(commit)]
        self.say(200, dict(id="somebody/maeve", private=self.server.private, sha=commit, siblings=names))

    def file(self):
        commit, name = self.path.split("/resolve/")[1].split("/", 1)
        data = content(commit).get(name.split("?")[0])
        if data is None:
            return self.say(404, b"", X_Error_Code="EntryNotFound")
        return self.say(200, data, ETag=f'"{commit[:8]}{len(data)}"', X_Repo_Commit=commit)

    def written(self, body):
        url = f"{self.server.url}/somebody/maeve"
        if "repos/create" in self.path:
            code = 409 if self.server.exists else 200
            return self.say(
                code, dict(url=url, name="somebody/maeve", id="1", error="You already created this model repo")
            )
        if "preupload" in self.path:
            asked = json.loads(body)["files"]
            regular = dict(uploadMode="regular", shouldIgnore=False, oid=None)
            return self.say(200, dict(files=[dict(path=f["path"], **regular) for f in asked]))
        done = dict(commitUrl=f"{url}/commit/{'1' * 40}", commitOid="1" * 40, pullRequestUrl=None, success=True)
        return self.say(200, done)


@cache
def server():
    s = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    s.url = f"http://127.0.0.1:{s.server_port}"
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s


@contextmanager
def playing(tmp: Path, answers=(), private=True, exists=True, url=None):
    "The library talks to the small server, with a cache of its own; yields the requests that arrive."
    s = server()
    s.answers, s.private, s.exists, s.sent = dict(answers), private, exists, []
    url = url or s.url
    new = dict(ENDPOINT=url, HUGGINGFACE_CO_URL_TEMPLATE=url + "/{repo_id}/resolve/{revision}/{filename}")
    new |= dict(HF_HUB_CACHE=str(tmp / "cache"), HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True)
    new |= dict(HF_HUB_ETAG_TIMEOUT=1, HF_HUB_DOWNLOAD_TIMEOUT=1, HF_HUB_DISABLE_TELEMETRY=True)
    old = {k: getattr(hub, k) for k in new}
    for k, v in new.items():
        setattr(hub, k, v)
    try:
        yield s.sent
    finally:
        for k, v in old.items():
            setattr(hub, k, v)


def uploaded(sent) -> list[str]:
    "Names of the files that were sent."
    commits = [body for _, path, body in sent if "/commit/" in path]
    lines = [json.loads(line) for body in commits for line in body.decode().splitlines()]
    return sorted(line["value"]["path"] for line in lines if line["key"] == "file")


# ---- reading ------------------------------------------------------------------------------------------------------
def _read(answers=(), revision=None, **kw):
    def run(tmp):
        with playing(tmp, answers, **kw):
            return Concept.from_pretrained("somebody/maeve", bb(), revision=revision)

    return run


def _loads(tmp):
    "Through every door, and only the wanted files were asked for."
    with playing(tmp) as sent:
        loaded = [Concept.from_pretrained("somebody/maeve", bb()), open_concept(bb(), "somebody/maeve")]
        loaded.append(Persona(bb(), "somebody/maeve").concepts["maeve"])
    asked = {path.split("/")[-1] for _, path, _ in sent if "/resolve/" in path}
    same = all(c.facts == {"toy": "a red kite"} and torch.equal(c.embeddings, loaded[0].embeddings) for c in loaded)
    return same and asked == set(PARTS)


def _pinned(revision, toy):
    def run(tmp):
        with playing(tmp) as sent:
            c = Concept.from_pretrained("somebody/maeve", bb(), revision=revision)
        commit = COMMITS.get(revision, revision)
        files_of = [path for _, path, _ in sent if "/resolve/" in path]
        return c.facts == {"toy": toy} and bool(files_of) and all(commit in path for path in files_of)

    return run


def _slow(handler):
    time.sleep(3)
    handler.say(200, b"")


def _cut(handler):
    "Promises more bytes than it sends."
    data = content(COMMITS["main"])[PARTS[1]]
    handler.send_response(200)
    for k, v in {"Content-Length": len(data), "ETag": '"x"', "X-Repo-Commit": COMMITS["main"]}.items():
        handler.send_header(k, str(v))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data[:1000])
        handler.close_connection = True


def _file(data):
    headers = dict(ETag='"x"', X_Repo_Commit=COMMITS["main"])
    return lambda handler: handler.say(200, data, **headers)


API = "/api/models"
ANSWERS = {  # {kind: ({part of the path: answer}, words)}
    "401, no such repository or no login": ({API: (401, dict(error="Repository not found"))}, ("somebody/maeve",)),
    "403, gated": ({API: (403, dict(error="Access is restricted"))}, ("somebody/maeve",)),
    "404": ({API: (404, dict(error="Repository not found"))}, ("somebody/maeve", "check the name")),
    "418": ({API: (418, b"teapot")}, ("somebody/maeve",)),
    "500": ({API: (500, b"<html>Internal error</html>")}, ("somebody/maeve",)),
    "a page of HTML": ({API: (200, b"<html>Please log in</html>")}, ("somebody/maeve",)),
    "a list": ({API: (200, [1, 2])}, ("somebody/maeve",)),
    "null": ({API: (200, b"null")}, ("somebody/maeve",)),
    "nothing": ({API: (200, b"")}, ("somebody/maeve",)),
    "half a JSON": ({API: (200, b'{"id": "some')}, ("somebody/maeve",)),
    "no commit": ({API: (200, dict(id="x", siblings=[]))}, ("somebody/maeve",)),
    "no files": ({API: (200, dict(id="x", sha="a" * 40, siblings=[]))}, ("somebody/maeve",)),
    "names that climb": (
        {API: (200, dict(id="x", sha="a" * 40, siblings=[dict(rfilename="../../concept.json")]))},
        ("somebody/maeve",),
    ),
    "a commit that climbs": (
        {API: (200, dict(id="x", sha="../../../../evil", siblings=[dict(rfilename=f) for f in PARTS]))},
        ("somebody/maeve",),
    ),
    "no weights": ({PARTS[1]: (404, b"")}, ("somebody/maeve",)),
    "weights that are cut off": ({PARTS[1]: _cut}, ("somebody/maeve",)),
    "weights that are a page of HTML": ({PARTS[1]: _file(b"<html>log in</html>")}, ("somebody/maeve", "safetensors")),
    "weights that are a program of pickle": ({PARTS[1]: _file(b"\x80\x04cos\nsystem\n")}, ("safetensors",)),
    "weights of 70 MB": ({PARTS[1]: _file(bytes(70_000_000))}, ("far more",)),
    "a concept.json that is a list": ({PARTS[0]: _file(b"[]")}, ("somebody/maeve", "JSON")),
    "a redirect in a circle": ({API: (302, b"", dict(Location="/api/models/somebody/maeve"))}, ("somebody/maeve",)),
}
NAMES = ("somebody/", "/maeve", "a/b/c", "somebody/mae ve", "somebody//maeve", "../maeve", "somebody/..", "-x/y")
REVISIONS = ("", "../main", "a branch", "-f", "x" * 300, "main\n", 7, True, ["main"], "refs/../../evil")

READING = [
    Case("hub", "a concept, through every door", _loads),
    *(
        Case("hub", f"pinned to {revision[:8]}", _pinned(revision, toy))
        for revision, toy in (
            ("main", "a red kite"),
            ("v1", "a blue kite"),
            (COMMITS["main"], "a red kite"),
            (COMMITS["v1"], "a blue kite"),
        )
    ),
    Case("hub", "pinned to what is not there", _read(revision="v9"), "refused", ("somebody/maeve", "v9")),
    Case(
        "hub",
        "pinned to a commit, and given another",
        _read({API: (200, dict(id="x", sha="a" * 40, siblings=[dict(rfilename=f) for f in PARTS]))}, COMMITS["v1"]),
        "refused",
        ("somebody/maeve", COMMITS["v1"]),
    ),
    *(
        Case("hub", f"revision={str(revision)[:20]!r}", _read(revision=revision), "refused", ("revision",))
        for revision in REVISIONS
    ),
    *(
        Case("hub", f"answers with {kind}", _read({k: _said(v) for k, v in answers.items()}), "refused", words)
        for _said in [
            lambda v: v if callable(v) else (lambda h, v=v: h.say(v[0], v[1], **(v[2] if len(v) > 2 else {})))
        ]
        for kind, (answers, words) in ANSWERS.items()
    ),
    *(
        Case(
            "hub",
            f"the name {name!r}",
            lambda tmp, name=name: Concept.from_pretrained(name, bb()),
            "refused",
            ("no such folder",),
        )
        for name in NAMES
    ),
    Case("hub", "nobody answers", _read(url="http://127.0.0.1:9"), "refused", ("somebody/maeve", "network")),
    Case("hub", "answers too late", _read({API: _slow}), "refused", ("somebody/maeve", "network"), slow=True),
]


def _backbone(revision):
    def run(tmp):
        with playing(tmp):
            return load_backbone("somebody/maeve", torch.float32, "cpu", revision=revision)

    return run


def _backbone_pinned(tmp):
    "The files of the commit are asked for, and of no other."
    with playing(tmp) as sent:
        try:
            load_backbone("somebody/maeve", torch.float32, "cpu", revision="v1")
        except ValueError as e:
            assert "is missing" in str(e)  # a concept is no backbone
    return any("/revision/v1" in path for _, path, _ in sent) and not [p for _, p, _ in sent if COMMITS["main"] in p]


CLIMBING = (
    "../../../config.json",
    "ae/../../../../evil.json",
    "/tmp/omnipersona-evil-config.json",
    "..\\..\\config.json",
)


def _climbing_backbone(tmp):
    "The wanted patterns match these names; nothing may be written outside the cache."
    with playing(tmp, {"/tree/": lambda h: h.say(200, tree(CLIMBING)), "/resolve/": _file(b"{}")}):
        try:
            return load_backbone("somebody/maeve", torch.float32, "cpu")
        finally:
            outside = [
                p for p in tmp.rglob("*") if p.is_file() and tmp / "cache" / "models--somebody--maeve" not in p.parents
            ]
            assert not [p for p in outside if ".locks" not in p.parts and p.name != "CACHEDIR.TAG"], outside
            assert not Path("/tmp/omnipersona-evil-config.json").exists()


READING += [
    Case("hub", "a backbone whose names climb", _climbing_backbone, "refused", ("somebody/maeve",)),
    Case("hub", "a backbone that is none", _backbone(None), "refused", ("missing", "complete")),
    Case("hub", "a backbone pinned to what is not there", _backbone("v9"), "refused", ("somebody/maeve", "v9")),
    Case("hub", "a backbone pinned to v1", _backbone_pinned),
    Case(
        "hub",
        "a backbone's folder with a revision",
        lambda tmp: load_backbone("tiny", revision="main"),
        "refused",
        ("tiny", "revision"),
    ),
]


# ---- sizes, before anything is downloaded ------------------------------------------------------------------------
def listing(**entries):
    "The hub's list of a concept's files, with other sizes of some."
    listed = tree(files())
    for entry in listed:
        entry |= dict(size=entries.get(entry["path"].split(".")[0], entry["size"]))
    return {"/tree/": lambda h: h.say(200, listed)}


def _nothing_fetched(read, answers, free=None):
    "Refused by what the list says: no file is asked for, and nothing lies in the cache."

    def run(tmp):
        files()  # what the server gives is made before the disk is full
        with playing(tmp, answers) as sent, free_space(free):
            try:
                return read()
            finally:
                assert not [path for _, path, _ in sent if "/resolve/" in path], sent
                assert sum(p.stat().st_size for p in (tmp / "cache").rglob("*") if p.is_file()) < 5000

    return run


@contextmanager
def free_space(free):
    "The disk seems to have so many bytes left."
    true = shutil.disk_usage
    shutil.disk_usage = lambda path: true(path) if free is None else true(path)._replace(free=free)
    try:
        yield
    finally:
        shutil.disk_usage = true


def _concept():
    return Concept.from_pretrained("somebody/maeve", bb())


def _of_a_backbone():
    return load_backbone("somebody/maeve", torch.float32, "cpu")


def _listed_twice(handler):
    "A list whose next page is itself."
    url = f"{handler.server.url}{handler.path}"
    handler.say(200, tree(f"{i}.txt" for i in range(1000)), Link=f'<{url}>; rel="next"')


def _cached(tmp):
    "What lies in the cache is read when the hub does not answer any more, and when the disk is full."
    with playing(tmp):
        first = _concept()
    with playing(tmp, url="http://127.0.0.1:9"):
        again = _concept()
    with playing(tmp), free_space(0):
        full = _concept()
    return torch.equal(first.embeddings, again.embeddings) and torch.equal(first.embeddings, full.embeddings)


SENT = "nothing was downloaded"
MODEL = {"/tree/": lambda h: h.say(200, tree(dict.fromkeys(("config.json",), b"{}")) + [HUGE])}
HUGE = dict(type="file", path="model.safetensors", size=70_000_000_000, oid="1" * 40)
SIZES = (  # name, what is read, the hub's list, free bytes, words
    ("a concept of 70 MB", _concept, listing(adapter_model=70_000_000), None, ("70,0", "somebody/maeve", SENT)),
    ("a concept.json of 70 MB", _concept, listing(concept=70_000_000), None, ("70,0", "somebody/maeve", SENT)),
    ("a backbone of 70 GB", _of_a_backbone, MODEL, None, ("70,000,000,002", "somebody/maeve", SENT)),
    ("a disk that is full", _concept, {}, 1000, ("somebody/maeve", "free", "HF_HOME", SENT)),
    ("a file without a size", _concept, listing(adapter_model=None), None, ("somebody/maeve", SENT)),
    ("a size below zero", _concept, listing(adapter_model=-5), None, ("somebody/maeve", SENT)),
    ("a size that is a text", _concept, listing(adapter_model="5"), None, ("somebody/maeve", SENT)),
    ("a list without an end", _concept, {"/tree/": _listed_twice}, None, ("somebody/maeve", "10,000", SENT)),
)
READING += [
    Case("hub", f"before a download: {name}", _nothing_fetched(read, answers, free), "refused", words)
    for name, read, answers, free, words in SIZES
]
READING.append(Case("hub", "what is in the cache needs no hub and no space", _cached))


# ---- writing ------------------------------------------------------------------------------------------------------
def _push(answers=(), sends=None, **kw) -> Callable:
    "Push; `sends`: the files that must have arrived, or [] where nothing may."
    server_kw = {k: kw.pop(k) for k in ("exists", "url") if k in kw}
    public = kw.pop("public", False)
    repo = kw.pop("repo", "somebody/maeve")

    def run(tmp):
        c = Concept(bb(), "maeve", facts={"toy": "a red kite"})
        with playing(tmp, answers, private=not public, **server_kw) as sent:
            try:
                c.push_to_hub(repo, token="hf_dummy", **kw)
            finally:
                if sends is not None:
                    assert uploaded(sent) == sends, uploaded(sent)
                if sends == []:
                    assert not [path for command, path, _ in sent if command == "POST"], sent
                facts = b"".join(body for _, path, body in sent if "/commit/" in path)
                if not kw.get("facts", True):
                    assert facts and b"cmVkIGtpdGU" not in facts  # 'red kite' in base64
        return True

    return run


NOT_FOUND = (404, dict(error="Repository not found"), dict(X_Error_Code="RepoNotFound"))
ALL = sorted(PARTS)


def _absent(handler):
    handler.say(NOT_FOUND[0], NOT_FOUND[1], **NOT_FOUND[2])


def _get(answer):
    "An answer to questions only; what is written is taken."

    def say(handler):
        if handler.command != "GET":
            return handler.written(handler.server.sent[-1][2])
        return answer(handler) if callable(answer) else handler.say(*answer)

    return say


NO_REPOSITORIES = ("", " ", "a/b/c", "../maeve", "somebody/mae ve", "https://hf.co/somebody/maeve", 3, None, "x" * 300)
WRITING = [
    Case("hub", "private to a repository that is private", _push(sends=ALL)),
    Case("hub", "private to a repository that is not there", _push({API: _get(_absent)}, sends=ALL, exists=False)),
    Case("hub", "public to a repository that is public", _push(sends=ALL, public=True, private=False)),
    Case("hub", "without facts", _push(sends=ALL, facts=False)),
    Case(
        "hub",
        "private to a repository that is public",
        _push(sends=[], public=True),
        "refused",
        ("somebody/maeve", "public", "nothing was sent", "private=False"),
    ),
    *(
        Case(
            "hub",
            f"private, and the hub answers {kind}",
            _push({API: _get((code, body))}, sends=[]),
            "refused",
            ("somebody/maeve",),
        )
        for kind, code, body in (
            ("without saying whether it is private", 200, dict(id="somebody/maeve", siblings=[])),
            ("that private is null", 200, dict(id="somebody/maeve", private=None, siblings=[])),
            ("that private is a text", 200, dict(id="somebody/maeve", private="yes", siblings=[])),
            ("with a page of HTML", 200, b"<html>Please log in</html>"),
            ("with 500", 500, b"<html>error</html>"),
            ("with 403", 403, dict(error="Forbidden")),
            ("with a list", 200, [1]),
        )
    ),
    *(
        Case("hub", f"push to {str(repo)[:30]!r}", _push(sends=[], repo=repo), "refused", ("repository",))
        for repo in NO_REPOSITORIES
    ),
    Case("hub", "private='yes'", _push(sends=[], private="yes"), "refused", ("private",)),
    Case("hub", "push, and nobody answers", _push(url="http://127.0.0.1:9"), "refused", ("somebody/maeve", "network")),
    Case(
        "hub",
        "push without the right to write",
        _push({"/commit/": (403, dict(error="You need write access"))}),
        "refused",
        ("somebody/maeve", "right to write"),
    ),
    Case(
        "hub",
        "push into another's name space",
        _push({"repos/create": (403, dict(error="You don't have the rights")), API: _get(_absent)}),
        "refused",
        ("somebody/maeve", "right to write"),
    ),
]
CASES = [*READING, *WRITING]
