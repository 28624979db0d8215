"""Scorers, judges and records: each protocol in both modes, every failure a row, and no key in any file."""

import errno
import json
import math
import random
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from omnipersona.basics import OmniError
from omnipersona.bench import items as items_module
from omnipersona.bench import ratings as ratings_module
from omnipersona.bench.embedders import ClipEmbedder, DinoEmbedder, Face, InsightFaces, PictureInput, largest_face
from omnipersona.bench.exact import ExactJudge, ToyIdentity, drawing_rating, edit_place, pixels_changed, two_drawn
from omnipersona.bench.items import (
    BENCH_TASKS,
    BenchItem,
    Prediction,
    PredictionFolder,
    as_record,
    from_record,
    read_items,
    write_items,
)
from omnipersona.bench.likeness import face_likeness, picture_likeness
from omnipersona.bench.model_judges import EndpointJudge, LocalJudge
from omnipersona.bench.ratings import (
    CachedJudge,
    JudgeQuestion,
    answer_question,
    edit_questions,
    mean_of_ratings,
    parse_scores,
    shows_question,
)
from omnipersona.bench.scoring import concept_scores, method_scores, score_predictions
from omnipersona.bench.task_scores import PictureStore, Scorers, answer_metrics, metric_names
from omnipersona.bench.text_scores import (
    choice_right,
    letter_bleu,
    picked_choice,
    recognised_right,
    recognition_recalls,
    word_bleu,
)
from omnipersona.pictures import load_image

# ---- records ------------------------------------------------------------------------------------------------------
words = st.text("abc <>\n\"{}é☃'", min_size=1).filter(str.strip)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9, allow_subnormal=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
some_items = st.builds(
    BenchItem,
    id=words,
    concept=words,
    task=st.sampled_from(BENCH_TASKS),
    request=words,
    images=st.lists(words, max_size=2),
    answer=st.none() | words,
    choices=st.lists(words, max_size=2),
    meta=st.dictionaries(words, json_values, max_size=2),
)
some_predictions = st.builds(
    Prediction,
    item=words,
    method=words,
    seed=st.integers(),
    text=st.none() | st.text("a\n\u2028\x85", max_size=4),
    seconds=st.none() | st.floats(0, 1e6, allow_subnormal=False),
    confidence=st.none() | st.floats(0, 1, allow_subnormal=False),
)


@settings(deadline=None, max_examples=50)
@given(some_items | some_predictions)
def test_records_go_round(entry):
    line = json.dumps(as_record(entry), ensure_ascii=False)
    assert "\n" not in line and from_record(json.loads(line), type(entry)) == entry


def test_files_go_round_and_name_what_is_wrong(tmp_path):
    items = [BenchItem(f"i{k}", "maeve", "qa", "what ?\u2028", answer="a b") for k in range(3)]
    path = write_items(tmp_path / "items.jsonl", items)
    assert read_items(path) == items
    with pytest.raises(OmniError, match="twice"):
        write_items(path, [*items, items[0]])
    assert read_items(path) == items
    path.write_text(path.read_text(encoding="utf-8") + '{"id": "x", "task": "quiz"}\n', encoding="utf-8")
    with pytest.raises(OmniError, match=r"items.jsonl, line 4"):
        read_items(path)
    with pytest.raises(OmniError, match="cannot be read"):
        read_items(tmp_path / "none.jsonl")


def test_predictions_of_two_workers_and_of_a_killed_one(tmp_path, world):
    a, b = PredictionFolder(tmp_path, "a"), PredictionFolder(tmp_path, "b")
    first = a.add(Prediction("i", "m", 0, text="one"))
    second = b.add(Prediction("i", "m", 1), world.photo(seed=1).image)
    with a.file.open("a") as f:
        f.write('{"item": "half", "met')
    assert a.read() == b.read() == [first, second] and a.unreadable == 1
    later = a.add(Prediction("i", "m", 0, text="two"))  # what was stored last counts
    assert a.read() == [later, second]
    assert load_image(tmp_path / second.image).tobytes() == world.photo(seed=1).image.tobytes()


def test_names_of_pictures_differ_and_stay_inside(tmp_path):
    folder, red = PredictionFolder(tmp_path), Image.new("RGB", (9, 9), "red")
    names = [folder.add(Prediction(i, "m", 0), red).image for i in ("a/b", "a_b", "../../a", "é" * 300)]
    assert len(set(names)) == 4 and all((tmp_path / n).resolve().parent == tmp_path / "pictures" for n in names)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    folder = PredictionFolder(tmp_path)
    kept = folder.add(Prediction("i", "m", 0, text="one"))

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(items_module, "atomic_write", full)
        with pytest.raises(OmniError, match="No space left.*free some space"):
            folder.add(Prediction("j", "m", 0), Image.new("RGB", (9, 9)))
    assert folder.read() == [kept]  # no line without its picture
    folder.add(Prediction("j", "m", 0), Image.new("RGB", (9, 9)))
    assert len(folder.read()) == 2


# ---- words --------------------------------------------------------------------------------------------------------
def test_the_know_quirk_and_its_relatives():
    for answer in ("I don't know", "Now, yes", "nothing", "another yes"):
        assert recognised_right("No.", answer, "compat") and not recognised_right("No.", answer)
    assert recognised_right("yes", "yesterday", "compat") and not recognised_right("yes", "yesterday")
    assert recognised_right("yes", "YES!", "compat") and recognised_right("Yes.", "<Yes>, it is")
    with pytest.raises(OmniError, match="yes or no"):
        recognised_right("maybe", "yes")
    with pytest.raises(OmniError, match="mode"):
        recognised_right("yes", "yes", "official")
    assert recognition_recalls(["yes", "no"], ["yes", ""])["unclear"] == 1


def test_choices():
    kites = ("a kite", "a red kite", "blue")
    assert [picked_choice(a, kites) for a in ("A", "(c)", "C) blue", "kite", "A red kite", "D", "")] == [
        *(0, None, 2, None, 1, None, None)
    ]
    assert choice_right("blue", "It is blue.", kites) and choice_right("C", "blue", kites)
    with pytest.raises(OmniError, match="none of"):
        choice_right("green", "blue", kites)


STORED = [  # answer, truth, NLTK 3.10.4 over letters, sacrebleu 2.6.0 of the sentence
    ("a red bike", "a red kite", 0.77873197, 55.032121),
    ("It costs 3.5, he said: <fine>.", "It cost 3.5, she said: fine!", 0.85502175, 11.731175),
    ("a b c d e f", "a b c d f e", 0.96888616, 56.234133),
    ("kite", "the red kite, over there", 0.00673795, 0.673795),
]


def test_bleu_is_that_of_the_libraries():
    "On random texts, where the libraries are installed."
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    sacrebleu = pytest.importorskip("sacrebleu")
    r, letters = random.Random(0), "ab c,.'-3%&<>\n{}@"
    for _ in range(300):
        a, t = ("".join(r.choice(letters) for _ in range(r.randrange(1, 20))) for _ in "at")
        smooth = bleu.SmoothingFunction().method1
        theirs = bleu.sentence_bleu([t], a, weights=(0.7, 0.3), smoothing_function=smooth)
        assert letter_bleu(a, t) == pytest.approx(theirs, abs=1e-9)
        assert word_bleu([a], [t], True) == pytest.approx(sacrebleu.sentence_bleu(a, [t]).score, abs=1e-6)
        assert word_bleu([a, t], [t, a]) == pytest.approx(sacrebleu.corpus_bleu([a, t], [[t, a]]).score, abs=1e-6)


@pytest.mark.parametrize(("answer", "truth", "letters", "sentence"), STORED)
def test_bleu_as_the_libraries_gave_it(answer, truth, letters, sentence):
    assert letter_bleu(answer, truth) == pytest.approx(letters, abs=1e-6)
    assert word_bleu([answer], [truth], True) == pytest.approx(sentence, abs=1e-5)


# ---- pictures -----------------------------------------------------------------------------------------------------
def tokenizer_of(words_known, folder, **special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words_known)}, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", **special
    )
    fast.save_pretrained(folder)
    return fast


SMALL = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    "A random CLIP, stored as transformers stores it."
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    ends = dict(eos_token_id=2, bos_token_id=1, pad_token_id=0)
    text = SMALL | dict(vocab_size=9, max_position_embeddings=8) | ends
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=SMALL | dict(image_size=32, patch_size=16), projection_dim=8)
    ).save_pretrained(folder)
    tokenizer_of("<pad> <unk> </s> a red kite dog at beach".split(), folder)
    return folder


def test_clip_by_name_in_both_modes(clip_folder, world):
    photos = [world.photo(seed=i).image for i in range(3)]
    correct = ClipEmbedder.from_pretrained(str(clip_folder), device="cpu")
    compat = ClipEmbedder.from_pretrained(str(clip_folder), "compat", "cpu")
    a, b = correct.images(photos), compat.images(photos)
    assert a.shape == b.shape == (3, 8) and not torch.allclose(a, b, atol=1e-3)
    halved = [Image.fromarray(((np.asarray(p) / 255 + 1) / 2 * 255).round().astype(np.uint8)) for p in photos]
    assert torch.allclose(correct.images(halved), b, atol=2e-3)  # the quirk is that the picture is made grey
    texts = correct.texts(["a red kite", "a dog at a beach a dog at a beach a dog"])
    assert texts.shape == (2, 8) and not torch.allclose(texts[0], texts[1])
    with pytest.raises(OmniError, match="no CLIP can be loaded"):
        ClipEmbedder.from_pretrained(str(clip_folder / "none"))


def test_dino_by_name(tmp_path, world):
    from transformers import Dinov2Config, Dinov2Model

    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path)
    dino = DinoEmbedder.from_pretrained(str(tmp_path), "cpu", size=28, resize=32)
    photos = [world.photo(seed=i).image for i in range(3)]
    assert dino.images(photos).shape == (3, 16)
    assert picture_likeness(dino.images(photos[:1]), dino.images(photos[:1])) == pytest.approx([1], abs=1e-5)


def test_input_equals_the_formula():
    picture = Image.new("RGB", (32, 32), (255, 0, 51))
    x = PictureInput(32)([picture])[0, :, 0, 0]
    assert x.tolist() == pytest.approx(
        [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (0.2 - 0.40821073) / 0.27577711]
    )
    y = PictureInput(32, mode="compat")([picture])[0, :, 0, 0]
    assert y[1].item() == pytest.approx((0.5 - 0.4578275) / 0.26130258)


def test_faces_of_insightface_and_without_it(monkeypatch):
    from types import SimpleNamespace

    def get(picture):
        assert picture[0, 0].tolist() == [30, 20, 10]  # blue first
        small = SimpleNamespace(bbox=[0, 0, 4, 4], embedding=np.array([0, 2.0]))
        return [small, SimpleNamespace(bbox=[0, 0, 9, 9], embedding=np.array([3.0, 0]))]

    found = InsightFaces(app=SimpleNamespace(get=get))(Image.new("RGB", (9, 9), (10, 20, 30)))
    assert largest_face(found).tolist() == [1, 0] and found[0].area == 16
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(OmniError, match="pip install insightface"):
        InsightFaces()


def test_dropped_faces():
    face = torch.tensor([1.0, 0])
    for n in (1, 4, 9):
        s = {m: face_likeness([face] + [None] * n, [face], m) for m in ("compat", "correct")}
        assert s["compat"]["score"] == 1 and s["correct"]["score"] == pytest.approx(1 / (n + 1))
        assert s["compat"]["detected"] == s["correct"]["detected"] == pytest.approx(1 / (n + 1))
    with pytest.raises(OmniError, match="nothing to compare"):
        face_likeness([face], [None])


# ---- judges -------------------------------------------------------------------------------------------------------
GOOD = json.dumps(dict(choices=[dict(message=dict(content='{"score": 1}'))]))
KEY = "sk-very-secret-0123456789"


@contextmanager
def endpoint(*replies):
    "A server on this machine that replies with these functions of its handler in turn, with the last one for ever."
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((json.loads(body), dict(self.headers)))
            reply = replies[min(len(got), len(replies)) - 1]
            try:
                reply(self)
            except OSError:  # the other side has gone
                pass

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", got
    finally:
        server.shutdown()
        server.server_close()


def says(status, text, **headers):
    def reply(handler):
        handler.send_response(status)
        for k, v in headers.items():
            handler.send_header(k.replace("_", "-"), v)
        handler.end_headers()
        handler.wfile.write(text.encode())

    return reply


def silent(handler):
    time.sleep(1.5)


def trickles(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def hangs_up(handler):
    handler.connection.close()


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)


def judge_of(url, **options):
    pauses = []
    options = dict(timeout=0.3, tries=3, wait=2.0, sleep=pauses.append) | options
    return EndpointJudge("m", url, "TEST_KEY", **options), pauses


QUESTION = answer_question("what ?", "a kite", "a red kite")


@pytest.mark.parametrize(
    "trouble",
    [
        silent,
        trickles,
        hangs_up,
        says(500, "oops"),
        says(503, ""),
        says(200, "<html>"),
        says(200, "{}"),
        says(200, "[" * 9999),
    ],
    ids="silent trickles hangs_up 500 503 html empty nested".split(),
)
def test_trouble_that_passes(key, trouble):
    with endpoint(trouble, says(200, GOOD)) as (url, got):
        judge, pauses = judge_of(url)
        verdict = CachedJudge(judge).score(QUESTION)
    assert verdict.scores == (1,) and judge.requests == len(got) == 2 and pauses == [2]


def test_trouble_that_stays_is_one_row(key):
    with endpoint(says(500, "oops")) as (url, got):
        judge, pauses = judge_of(url)
        cached = CachedJudge(judge)
        verdict = cached.score(QUESTION)
    assert verdict.status == "failed" and "no reply in 3 tries" in verdict.why and "500" in verdict.why
    assert len(got) == 3 and pauses == [2, 4] and cached.tally.failed == 1
    assert CachedJudge(judge).score(QUESTION).status == "failed"  # nobody listens any more


def test_the_server_asks_for_a_pause(key):
    with endpoint(says(429, "slow", Retry_After="7"), says(429, "slow", Retry_After="9999"), says(200, GOOD)) as (
        url,
        _,
    ):
        judge, pauses = judge_of(url)
        assert judge.reply("?", [], 0) == '{"score": 1}' and pauses == [7, 60]


def test_a_refusal_and_a_redirect_are_final_and_the_key_stays_secret(key, tmp_path, capsys):
    with endpoint(says(200, GOOD)) as (elsewhere, stolen):
        with endpoint(says(401, f"wrong key {KEY}"), says(307, "", Location=f"{elsewhere}/chat/completions")) as (
            url,
            got,
        ):
            judge, pauses = judge_of(url)
            cached = CachedJudge(judge, tmp_path)
            verdicts = [cached.score(QUESTION), cached.score(answer_question("?", "a", "b"))]
    assert [v.status for v in verdicts] == ["failed"] * 2 and len(got) == 2 and not pauses and not stolen
    assert got[0][1]["Authorization"] == f"Bearer {KEY}"
    with endpoint(says(200, GOOD)) as (url, _):
        cached = CachedJudge(judge_of(url)[0], tmp_path)
        cached.score(QUESTION)
    files = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    printed = capsys.readouterr()
    assert '"reply"' in files and KEY not in files + repr(verdicts) + repr(vars(judge)) + printed.out + printed.err


def test_no_history_and_pictures_are_sent(key, world):
    with endpoint(says(200, GOOD)) as (url, got):
        judge = CachedJudge(judge_of(url)[0], seed=5)
        for i in range(3):
            judge.score(shows_question("<maeve>", ["She likes kites."], "draw", world.photo(seed=i).image))
        judge.score(shows_question("<maeve>", ["She likes kites."], "draw", world.photo(seed=0).image))
    assert len(got) == 3 and [len(body["messages"]) for body, _ in got] == [1] * 3 and got[0][0]["seed"] == 5
    assert got[0][0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_rubbish_is_counted_and_kept(key, tmp_path):
    rubbish = says(200, json.dumps(dict(choices=[dict(message=dict(content="I'd be happy to help!"))])))
    with endpoint(rubbish) as (url, got):
        for _ in range(2):
            judge = CachedJudge(judge_of(url)[0], tmp_path)
            assert judge.score(QUESTION).status == "unparsable" and judge.tally.unparsable == 1
    assert len(got) == 1


def test_no_key_no_judge(monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(OmniError, match="TEST_KEY is not set"):
        EndpointJudge("m", "http://127.0.0.1:1", "TEST_KEY")
    assert EndpointJudge("m", "http://example.org/v1", None).about["url"] == "http://example.org/v1"


def test_what_is_kept_depends_on_everything(world):
    photo, other = world.photo(seed=1).image, world.photo(seed=2).image
    base = shows_question("m", ["k"], "p", photo)
    key_of = ratings_module.question_key
    about = dict(model="m")
    keys = {
        key_of(base, about, 0),
        key_of(base, about, 1),
        key_of(base, dict(model="n"), 0),
        key_of(shows_question("m", ["k"], "p", other), about, 0),
        key_of(shows_question("m", ["k"], "q", photo), about, 0),
    }
    assert len(keys) == 5 and key_of(shows_question("m", ["k"], "p", photo.copy(), dict(a=1)), about, 0) in keys


def test_a_full_disk_does_not_stop_a_judge(tmp_path, monkeypatch):
    class Yes:
        about = dict(judge="yes")

        def reply(self, text, images, seed):
            return "1"

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ratings_module, "atomic_write", full)
    judge = CachedJudge(Yes(), tmp_path)
    assert [judge.score(QUESTION).scores for _ in range(2)] == [(1,), (1,)]
    assert judge.tally.not_kept == 1 and judge.tally.called == 1


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_reply_is_parsed_or_not(reply):
    found = parse_scores(reply)
    assert found is None or found[0] in (0, 0.5, 1)
    two = parse_scores(reply, 2, ())
    assert two is None or len(two) == 2 and all(0 <= v <= 10 for v in two)


def test_a_random_vision_language_model_says_rubbish_that_is_counted(tmp_path, world):
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, Qwen2Config

    try:
        from transformers import CLIPImageProcessorPil as ImageProcessor
    except ImportError:  # before transformers 5
        from transformers import CLIPImageProcessor as ImageProcessor
    known = "<pad> <unk> </s> <image> USER: ASSISTANT: score kite dog maeve".split()
    tok = tokenizer_of(known, tmp_path, additional_special_tokens=["<image>"])
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %} <image> {% else %}"
    )
    template += "{{ c['text'] }}{% endif %}{% endfor %} ASSISTANT: {% endfor %}"
    LlavaProcessor(
        image_processor=ImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32)),
        tokenizer=tok,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=template,
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(tmp_path)
    ends = dict(pad_token_id=0, eos_token_id=2, bos_token_id=1)
    text = Qwen2Config(vocab_size=len(known), num_key_value_heads=2, **SMALL, **ends)
    vision = CLIPVisionConfig(image_size=32, patch_size=16, **SMALL)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=3))
    model.save_pretrained(tmp_path)
    judge = LocalJudge.from_pretrained(str(tmp_path), "cpu", torch.float32, max_new_tokens=5)
    asked = [edit_questions("remove it", world.photo(seed=1).image, world.photo(seed=2).image)[0], QUESTION]
    cached = CachedJudge(judge)
    assert [cached.score(q).status for q in asked] == ["unparsable"] * 2 and cached.tally.unparsable == 2
    assert judge.reply("score", [], 0) == judge.reply("score", [], 1)


# ---- exact --------------------------------------------------------------------------------------------------------
def test_exact_ratings(world, judge):
    photo = world.photo(world.character(5), 3, place="beach")
    red = dict(shows=["the beach"], attributes=dict(species=photo.truth["species"]))
    assert drawing_rating(judge, photo.image, **red) == 1
    assert drawing_rating(judge, photo.image, ["the moon"], dict(species=photo.truth["species"])) == 0.5
    other = next(s for s in ("dog", "cat") if s not in (photo.truth["species"], photo.truth["thing"]))
    assert drawing_rating(judge, photo.image, ["the moon", f"a {other}"]) == 0
    exact = ExactJudge(judge)
    assert exact.score(JudgeQuestion("taste", "?")).status == "failed"
    assert exact.score(shows_question("m", [], "p", photo.image)).status == "failed" and exact.tally.failed == 2


def test_places_of_edits():
    a = np.zeros((20, 20, 3), np.uint8)
    b = a.copy()
    b[:10] = 255
    mask = pixels_changed(a, b)
    assert mask[:10].all() and not mask[10:].any()
    assert edit_place(a, b, mask) == dict(overlap=1, inside=1, outside=0)
    assert edit_place(a, b, ~mask) == dict(overlap=0, inside=0, outside=1)
    with pytest.raises(OmniError, match="pixel by pixel"):
        pixels_changed(a, b[:10])
    assert two_drawn(dict(species="dog", color="red", thing="dog", thing_color="red"), [("dog", "red")] * 2)["both"]


# ---- scoring ------------------------------------------------------------------------------------------------------
@pytest.fixture
def bench(tmp_path, world, judge):
    "An item of each task, a right answer to each, and what to score them with."
    char, friend = world.character(5), world.character(8)
    photo = world.photo(char, 21, thing=None, accessory=None)
    edit = world.edit(photo, "remove", "maeve", seed=1)
    for name, picture in (("source", edit.source), ("target", edit.target), ("album", world.photo(char, 30).image)):
        picture.save(tmp_path / f"{name}.png")
    an_edit = dict(kind="remove", before=edit.before.truth, after=edit.after.truth, target="target.png")
    two = [(char.traits.species, char.traits.color), (friend.traits.species, friend.traits.color)]
    drawn = dict(attributes=photo.truth, references=["album.png"])
    cases = [
        (dict(task="rec", answer="no"), "no"),
        (dict(task="rec", answer="yes"), "yes"),
        (dict(task="vqa", answer="B", choices=("a", "b")), "B"),
        (dict(task="qa", answer="a red kite"), "a red kite"),
        (dict(task="captioning", meta=dict(attributes=photo.truth)), photo.caption),
        (dict(task="abstention"), "unknown"),
        (dict(task="abstention", answer="a kite"), "a kite"),
        (dict(task="two_concepts", answer="<bo>"), "<bo>"),
        (dict(task="generation", meta=drawn), photo.image),
        (dict(task="parg", meta=dict(shows=[f"the {photo.scene.place}"])), photo.image),
        (dict(task="editing", images=("source.png",), meta=dict(edit=an_edit)), edit.target),
        (dict(task="two_concepts", meta=dict(draw=True, two=two)), photo.image),
    ]
    items = [BenchItem(f"i{k}", "maeve", request="?", **case) for k, (case, _) in enumerate(cases)]
    options = dict(judge=ExactJudge(judge), toy=judge, embedders=dict(identity=ToyIdentity(judge)))
    faces = dict(faces=lambda p: [Face(1, np.asarray(p, float).mean((0, 1)))])
    return tmp_path, items, [a for _, a in cases], options | faces


def stored(folder, items, answers, method="m", seed=0):
    kept = PredictionFolder(folder / "said")
    for item, answer in zip(items, answers):
        text = answer if isinstance(answer, str) else None
        kept.add(Prediction(item.id, method, seed, text=text), None if text else answer)
    return kept


def test_a_missing_answer_has_the_rows_of_a_given_one(bench):
    folder, items, answers, options = bench
    rows = score_predictions(
        items, stored(folder, items, answers).read(), folder=folder, predicted=folder / "said", **options
    )
    assert {i.task for i in items} == set(BENCH_TASKS) and all(r["status"] == "ok" for r in rows)
    none = [Prediction(i.id, "m", 0, error="crashed") for i in items]
    lost = score_predictions(items, none, folder=folder, **options)
    assert [(r["item"], r["metric"]) for r in rows] == [(r["item"], r["metric"]) for r in lost]
    assert {r["status"] for r in lost} == {"failed"} and not any(r["value"] for r in lost)
    one = score_predictions(items, none[:1], folder=folder, **options)
    assert {r["status"] for r in one if r["item"] != "i0"} == {"missing"}


def test_scoring_twice_gives_the_same(bench):
    folder, items, answers, options = bench
    said = stored(folder, items, answers).read()
    paths = dict(folder=folder, predicted=folder / "said")
    assert score_predictions(items, said, **paths, **options) == score_predictions(
        items, said[::-1], **paths, **options
    )


def test_failures_cost_the_worst(bench):
    folder, items, answers, options = bench
    none = [Prediction(i.id, "m", 0, error="crashed") for i in items]
    rows = score_predictions(items, none, folder=folder, **options)
    worst = method_scores(concept_scores(rows))
    lower = {"invented share", "wrong refusals", "exchanged"}
    assert all(s["mean"] == (k[2] in lower) and s["missing"] == s["n"] for k, s in worst.items())
    assert all(math.isnan(s["mean"]) for s in method_scores(concept_scores(rows, "compat")).values())


def test_a_broken_picture_and_a_failing_judge_are_rows(bench):
    folder, items, answers, options = bench
    kept = stored(folder, items, answers)
    broken = next(p for p in kept.read() if p.item == "i9")
    (folder / "said" / broken.image).write_bytes(b"no picture")

    class Crashing:
        about = dict(judge="crashing")

        def reply(self, *args):
            raise ConnectionError("gone")

    options["judge"] = CachedJudge(Crashing())
    rows = score_predictions(items, kept.read(), folder=folder, predicted=folder / "said", **options)
    status = {(r["item"], r["metric"]): r["status"] for r in rows}
    assert status["i9", "rating"] == "no picture" and status["i10", "overall"] == "failed" == status["i3", "rating"]
    assert status["i10", "done"] == "ok" and options["judge"].tally.failed == 4


def test_predictions_of_other_items_are_refused(bench):
    folder, items, _, options = bench
    p = Prediction("i0", "m", 0, text="no")
    for wrong, why in (([Prediction("x", "m", 0, text="no")], "no such item"), ([p, p], "two predictions")):
        with pytest.raises(OmniError, match=why):
            score_predictions(items, wrong)
    with pytest.raises(OmniError, match="twice"):
        score_predictions([*items, items[0]], [p])
    with pytest.raises(OmniError, match="its meta lacks 'attributes'"):
        score_predictions([BenchItem("c", "m", "captioning", "?")], [Prediction("c", "m", 0, text="a dog")])


def test_the_quirks_reach_the_rows(bench):
    folder, items, _, _ = bench
    said = [Prediction("i0", "m", 0, text="I don't know"), Prediction("i2", "m", 0, text="A. or B.")]
    for mode, value in (("correct", 0), ("compat", 1)):
        rows = score_predictions(items, said, mode=mode)
        assert all(r["value"] == value for r in rows if r["status"] == "ok")
    silent = Scorers()
    assert metric_names(items[9], silent) == [] and answer_metrics(items[0], "no", silent, PictureStore())["right"]


def test_means_of_conditions_before_concepts():
    rows = [("a", "x", 1.0)] * 9 + [("a", "y", 0.0), ("b", "x", 0.0)]
    assert mean_of_ratings(rows)["mean"] == 0.25
