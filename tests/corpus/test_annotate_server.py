"""Annotation against a real server on this machine, one that does everything servers do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.corpus import Corpus, add_specs
from glyphflow.corpus.annotate import annotate
from glyphflow.corpus.annotate.replies import Replies, forget_replies, replies_path
from glyphflow.corpus.decide.curate import curate
from glyphflow.corpus.forget import forget
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.operators.measure import measure
from glyphflow.corpus.recipe import RenderSet, Rule, Stage
from glyphflow.corpus.specs import Renderer
from glyphflow.perception.chat import Endpoint, jpeg_url
from glyphflow.perception.server import Reply, Server
from local_server import Answer, Asked, says, serve

Folder = Callable[..., Path]
GOOD = {
    "Caption": "A blur of soft colours.",
    "Image Type": "Photo",
    "Image Style": "Abstract",
    "Watermark List": [],
    "Abnormal Element": "no",
}
KEY = "a-secret-that-must-not-be-written-down"


@pytest.fixture
def corpus(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Four photographs with captions in one shard, all of them in the view "all"."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Corpus.create(tmp_path / "corpus")
    ingest_folder(made, folder(4), "mine", "x")
    _view(made)
    return made


def _view(corpus: Corpus) -> None:
    measure(corpus)
    rule = Rule(filter="Key", column="index.key", empty=False, reason="")
    curate(corpus, [Stage(name="F1", title="first", rules=(rule,))], "all")


def _options(url: str, **more: Any) -> dict[str, Any]:
    return {
        "using": f"endpoint:{url}",
        "model": "a-model",
        "variants": ["recaption"],
        "languages": ["en"],
        "reading": False,
        "concurrency": 2,
    } | more


def _words(asked: Asked) -> str:
    """All that was said, in one string; the first message's words stand beside its picture."""
    first, *others = asked.json["messages"]
    return "\n".join(
        [next(part["text"] for part in first["content"] if part["type"] == "text"), *(m["content"] for m in others)]
    )


def _good(asked: Asked, number: int) -> Answer:
    chinese = "图注" in _words(asked)
    caption = "一片柔和的色彩。" if chinese else "A blur of soft colours."
    if "picture number" in _words(asked):
        caption = "第几张图片，一片柔和的色彩。" if chinese else "Picture number such and such, a blur of soft colours."
    return says(json.dumps(GOOD | {"Caption": caption}, ensure_ascii=False))


def _columns(corpus: Corpus) -> dict[str, list[Any]]:
    columns = corpus.columns("annotate", "mine-00000")
    assert columns is not None
    return columns


def test_captions_metadata_and_every_variant(corpus: Corpus) -> None:
    with serve(_good) as server:
        done = annotate(corpus, "all", _options(server.url, variants=["recaption", "fused"], languages=["en", "zh"]))
    assert done.rows == 4 and done.errors == {}
    columns = _columns(corpus)
    assert columns["raw"] == [f"picture number {number}" for number in range(4)]
    assert columns["recaption_en"] == ["A blur of soft colours."] * 4 == columns["caption_en"]
    assert columns["recaption_zh"] == ["一片柔和的色彩。"] * 4
    assert columns["fused_en"] == ["Picture number such and such, a blur of soft colours."] * 4
    assert columns["fused_zh"] == ["第几张图片，一片柔和的色彩。"] * 4
    assert set(columns["image_type"]) == {"photograph"} and set(columns["image_style"]) == {"abstract"}
    assert columns["asked"] == [4] * 4 and columns["abnormal"] == [False] * 4
    assert len(server.asked) == 16
    for asked in server.asked:
        assert asked.path == "/v1/chat/completions" and asked.headers["Authorization"] == f"Bearer {KEY}"
        picture = asked.json["messages"][0]["content"][0]["image_url"]["url"]
        assert picture.startswith("data:image/jpeg;base64,") and asked.json["model"] == "a-model"
    fused = [asked for asked in server.asked if "picture number 2" in _words(asked)]
    assert len(fused) == 2  # given to the two fused requests of its own picture, and to nobody else
    assert not any(KEY in path.read_text(errors="replace") for path in corpus.directory.rglob("*") if path.is_file())


def test_a_reply_that_does_not_fit_is_answered_with_the_reason(corpus: Corpus) -> None:
    bad = ["What a picture!", json.dumps({"caption": "x"}), '{"Caption": "cut', "z" * 400_000]

    def answer(asked: Asked, number: int) -> Answer:
        return says(bad.pop()) if len(asked.json["messages"]) == 1 else _good(asked, number)

    with serve(answer) as server:
        assert annotate(corpus, "all", _options(server.url)).errors == {}
    columns = _columns(corpus)
    assert columns["recaption_en"] == ["A blur of soft colours."] * 4 and columns["asked"] == [2] * 4
    again = [asked.json["messages"] for asked in server.asked if len(asked.json["messages"]) == 3]
    reasons = "\n".join(messages[2]["content"] for messages in again)
    assert [message["role"] for message in again[0]] == ["user", "assistant", "user"]
    for why in ("holds no JSON", "has no 'Image Type'", "not complete", "400000 characters"):
        assert why in reasons
    assert max(len(messages[1]["content"]) for messages in again) <= 2000  # what was said is cut before it is said again


def test_answers_that_never_fit_are_an_error_of_their_row(corpus: Corpus) -> None:
    with serve(lambda asked, number: says("no JSON from me")) as server:
        done = annotate(corpus, "all", _options(server.url, attempts=2))
        assert done.errors == {"no usable answer in 2": 4} and len(server.asked) == 8
        assert _columns(corpus)["caption_en"] == [None] * 4
        assert "the reply holds no JSON" in _columns(corpus)["error"][0]
        assert annotate(corpus, "all", _options(server.url, attempts=2)).rows == 0


def test_refusals_are_asked_again_and_then_recorded(corpus: Corpus) -> None:
    sorry = "I'm sorry, but I can't describe this image."

    def answer(asked: Asked, number: int) -> Answer:
        turns = len(asked.json["messages"])
        if number == 0:
            return Answer({"choices": [{"message": {"content": None, "refusal": "policy"}, "finish_reason": "content_filter"}]})
        return says(sorry if number % 2 else json.dumps(GOOD | {"Caption": sorry})) if turns < 5 else _good(asked, number)

    with serve(answer) as server:
        assert annotate(corpus, "all", _options(server.url, concurrency=1)).errors == {}
        assert _columns(corpus)["asked"] == [3] * 4 and set(_columns(corpus)["refusal"]) == {None}
        spoken = [asked.json["messages"][2]["content"] for asked in server.asked if len(asked.json["messages"]) == 3]
        assert all("Nothing is asked but a description" in words for words in spoken)
    with serve(lambda asked, number: says(sorry)) as server:
        done = annotate(corpus, "all", _options(server.url, model="another-model"))
    assert done.errors == {"refused": 4}
    assert set(_columns(corpus)["refusal"]) == {"I'm sorry"} and _columns(corpus)["annotation"] == [None] * 4


def test_a_busy_server_is_tried_again_and_a_bad_request_is_not(corpus: Corpus) -> None:
    seen: Counter[str] = Counter()

    def answer(asked: Asked, number: int) -> Answer:
        picture = asked.json["messages"][0]["content"][0]["image_url"]["url"]
        seen[picture] += 1
        order = sorted(seen).index(picture)  # changes while pictures arrive, which is fine
        if seen[picture] == 1:
            return Answer({"error": "slow down"}, 429, {"Retry-After": "0"})
        if seen[picture] == 2:
            return Answer(b"<html>broken</html>", 500)
        return _good(asked, order)

    with serve(answer) as server:
        assert annotate(corpus, "all", _options(server.url, concurrency=4)).errors == {}
        assert len(server.asked) == 12 and _columns(corpus)["asked"] == [1] * 4
    with serve(lambda asked, number: Answer({"error": "too large"}, 400)) as server:
        done = annotate(corpus, "all", _options(server.url, model="another-model"))
        assert done.errors == {"no answer": 4} and len(server.asked) == 4
        assert _columns(corpus)["error"][0].startswith("no answer: HTTP 400")
    with serve(_good) as server:  # elsewhere, the same model: only what has no answer is asked
        done = annotate(corpus, "all", _options(server.url, model="another-model"))
        assert done.rows == 4 and done.errors == {}


def test_a_server_that_is_gone_stops_the_run_and_costs_nothing(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glyphflow.perception.server.random.uniform", lambda low, high: 0.0)  # no pause between attempts
    corpus = Corpus.create(tmp_path / "large")
    ingest_folder(corpus, folder(16, "more"), "mine", "x")
    _view(corpus)
    gone = pytest.raises(InputError, match=r"no answer for 8 pictures in a row .* every answer so far is kept")
    with serve(lambda asked, number: _good(asked, number) if number < 3 else Answer({}, 503)) as server, gone:
        annotate(corpus, "all", _options(server.url, concurrency=4), workers=1)
    assert corpus.columns("annotate", "mine-00000") is None
    with serve(_good) as server:
        assert annotate(corpus, "all", _options(server.url)).rows == 16
        assert len(server.asked) == 13  # three answers were on disk


def test_servers_that_are_silent_drip_or_never_end_are_given_up() -> None:
    """As bytes on a socket: an answer that begins and does not end in time, or that ends too early."""
    begin = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"

    def silent(connection: socket.socket) -> None:
        connection.recv(1)  # until the client goes

    def drips(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    def breaks(connection: socket.socket) -> None:
        connection.sendall(begin + b'{"choices": [')

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * (1 << 20))

    told = {silent: "timeout", drips: "timeout", breaks: "error", endless: "error"}
    for behave, status in told.items():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=_answer, args=(listener, behave), daemon=True).start()
            seconds = 30 if status == "error" else 0.5
            server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", timeout_s=seconds, attempts=1)
            reply = Endpoint(server).send({"messages": []}, {})
        assert reply.status == status, (behave, reply)
    assert "more than 67108864 bytes" in reply.text


def _answer(listener: socket.socket, behave: Callable[[socket.socket], None]) -> None:
    with contextlib.suppress(OSError), listener.accept()[0] as connection:
        while not connection.recv(1 << 16).endswith(b"}"):
            pass
        behave(connection)


def test_a_wrong_key_stops_the_run(corpus: Corpus) -> None:
    with (
        serve(lambda asked, number: Answer({"error": "no"}, 401)) as server,
        pytest.raises(ConfigError, match="refuses the key"),
    ):
        annotate(corpus, "all", _options(server.url))


def test_nothing_is_asked_twice_whatever_was_killed(corpus: Corpus, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import json, sys\nfrom glyphflow.corpus import Corpus\nfrom glyphflow.corpus.annotate import annotate\n"
        "if __name__ == '__main__':\n    annotate(Corpus.open(sys.argv[1]), 'all', json.loads(sys.argv[2]), workers=1)\n"
    )

    def answer(asked: Asked, number: int) -> Answer:
        time.sleep(0.05)
        return says("not JSON") if len(asked.json["messages"]) == 1 else _good(asked, number)

    with serve(answer) as server:
        command = [sys.executable, str(script), str(corpus.directory), json.dumps(_options(server.url, concurrency=1))]
        for kill_after in (1, 4):  # in the middle of the first conversation, and of the third
            process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": "src"})
            end = time.monotonic() + 60
            while len(server.asked) < kill_after + 1 and time.monotonic() < end:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
        annotate(corpus, "all", _options(server.url, concurrency=1))
        bodies = Counter(asked.body for asked in server.asked)
    assert _columns(corpus)["recaption_en"] == ["A blur of soft colours."] * 4
    assert len(bodies) == 8
    assert sum(bodies.values()) <= 8 + 2  # what was under way when the process died, once for each death


def test_renders_have_their_truth_or_are_described_and_checked(corpus: Corpus) -> None:
    add_specs(corpus, "words", RenderSet(name="words", template="word", count=2, params={"languages": ["en"]}).specs())
    _view(corpus)
    with serve(_good) as server:
        annotate(corpus, "all", _options(server.url))
        assert len(server.asked) == 4  # the photographs
        truth = corpus.columns("annotate", "words-00000")
        assert truth is not None and truth["asked"] == [0, 0]
        annotate(corpus, "all", _options(server.url, renders="model"))
        assert len(server.asked) == 6
    columns = corpus.columns("annotate", "words-00000")
    assert columns is not None
    for row, caption in zip(corpus.records("all").rows[4:], columns["recaption_en"], strict=True):
        drawn = Renderer().draw(corpus.payload(row.shard, row.kind, row.offset, row.size))
        assert caption.startswith("A blur of soft colours, with the text")
        assert all(f'"{line.text}"' in caption for line in drawn.lines)


def test_replies_survive_torn_lines_and_forget(corpus: Corpus) -> None:
    path = replies_path(corpus, "mine-00000")
    first = Replies(path)
    first.add("a" * 64, "p", "m", Reply("ok", "one\ntwo — 三"))
    first.add("b" * 64, "p", "m", Reply("refused", "no"))
    with path.open("ab") as file:
        file.write(b'{"picture": "cc')  # a full disk
    second = Replies(path)
    second.add("d" * 64, "p", "m", Reply("ok", "four"))
    third = Replies(path)
    assert third.get("a" * 64, "p", "m") == Reply("ok", "one\ntwo — 三")
    assert third.get("b" * 64, "p", "m") == Reply("refused", "no") and third.get("d" * 64, "p", "m") == Reply("ok", "four")
    assert third.get("a" * 64, "p", "another") is None
    forget_replies(corpus, "mine-00000", {"a" * 64})
    fourth = Replies(path)
    assert fourth.get("a" * 64, "p", "m") is None and fourth.get("d" * 64, "p", "m") is not None
    assert b"three" not in path.read_bytes() and b"one" not in path.read_bytes()


def test_what_was_said_of_a_forgotten_picture_is_forgotten(corpus: Corpus) -> None:
    with serve(_good) as server:
        annotate(corpus, "all", _options(server.url))
    index = corpus.index("mine-00000")
    forget(corpus, [index["id"][2]])
    said = replies_path(corpus, "mine-00000").read_text()
    assert [digest in said for digest in index["sha256"]] == [True, True, False, True]
    assert _columns(corpus)["recaption_en"][2] is None


def test_pictures_that_the_server_cannot_take_cost_their_rows_alone(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glyphflow.perception.server.random.uniform", lambda low, high: 0.0)
    corpus = Corpus.create(tmp_path / "large")
    ingest_folder(corpus, folder(20, "more"), "mine", "x")
    _view(corpus)
    bad: set[str] = set()

    def broken(rejection: Answer) -> Callable[[Asked, int], Answer]:
        """Ten pictures at which the server breaks, one after another, again and again."""

        def answer(asked: Asked, number: int) -> Answer:
            picture = asked.json["messages"][0]["content"][0]["image_url"]["url"]
            if picture in bad or (len(bad) < 10 and picture != plain):
                bad.add(picture)
                return rejection
            return _good(asked, number)

        return answer

    plain = jpeg_url(np.full((64, 64, 3), 128, np.uint8))
    for number, rejection in enumerate(
        (Answer({"error": "too long"}, 400), Answer({"e": 1}, 413), Answer({}, 500), Answer([1]))
    ):
        bad.clear()
        with serve(broken(rejection)) as server:
            done = annotate(corpus, "all", _options(server.url, model=f"m{number}", concurrency=1), workers=1)
        assert done.rows == 20 and done.errors == {"no answer": 10}, rejection
        assert sum(caption is not None for caption in _columns(corpus)["caption_en"]) == 10


def test_half_a_character_in_an_answer_is_replaced_also_in_one_that_is_kept(corpus: Corpus) -> None:
    cut = json.dumps(GOOD | {"Caption": "A \ud83d blur of soft colours."})
    with serve(lambda asked, number: says(cut)) as server:
        assert annotate(corpus, "all", _options(server.url)).errors == {}
    assert _columns(corpus)["recaption_en"] == ["A \ufffd blur of soft colours."] * 4
    path = replies_path(corpus, "mine-00000")
    path.write_text(path.read_text().replace("\\ufffd", "\\ud83d"))  # as an older version kept it
    with serve(_good) as server:
        annotate(corpus, "all", _options(server.url, renders="model"))  # read anew, from what is kept
    assert not server.asked and _columns(corpus)["recaption_en"] == ["A \ufffd blur of soft colours."] * 4


def test_a_schema_is_asked_for_until_the_server_says_that_it_has_none(corpus: Corpus) -> None:
    def lacks(asked: Asked, number: int) -> Answer:
        if "response_format" in asked.json:
            return Answer({"error": {"message": "response_format: extra inputs are not permitted"}}, 422)
        if "seed" in asked.json:
            return Answer({"error": {"message": "Unrecognized request argument supplied: seed"}}, 400)
        return _good(asked, number)

    with serve(_good) as server:
        annotate(corpus, "all", _options(server.url))
    sent = server.asked[0].json["response_format"]
    assert sent["type"] == "json_schema" and set(sent["json_schema"]["schema"]["required"]) == set(GOOD)
    with serve(lacks) as server:
        assert annotate(corpus, "all", _options(server.url, model="older", concurrency=1), workers=1).errors == {}
    fields = [{"response_format", "seed"} & set(asked.json) for asked in server.asked]
    assert fields == [{"response_format", "seed"}, {"seed"}, set(), set(), set(), set()]


def test_a_rejected_picture_of_a_server_with_a_firewall_does_not_end_the_run(corpus: Corpus) -> None:
    with serve(lambda asked, number: Answer({"e": "no"}, 403) if number == 0 else _good(asked, number)) as server:
        done = annotate(corpus, "all", _options(server.url, concurrency=1), workers=1)
    assert done.errors == {"no answer": 1} and "HTTP 403" in str(_columns(corpus)["error"])


@pytest.mark.parametrize("key", [KEY + "\n", f" {KEY}\r\n", f'"{KEY}"', "\ufeff" + KEY])
def test_what_files_leave_around_a_key_is_no_part_of_it(key: str, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serve(_good) as server:
        assert annotate(corpus, "all", _options(server.url)).errors == {}
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
