"""Judges over the wire, recorded, in panels, and what they make of replies; the server is a real one on this machine."""

import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.evaluate.case import Case, Verdict, ask, failed
from glyphflow.evaluate.judges import ChatJudge, Endpoint, FunctionJudge, Panel, Replay
from glyphflow.evaluate.judges.panel import combine
from glyphflow.perception.schema import check, parse_json
from glyphflow.perception.server import Server
from local_server import Answer, Asked, LocalServer, says, serve

KEY = "sk-do-not-write-me-down"
PICTURE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def chat(prompt: str = "Is there a dog?", images: tuple[np.ndarray, ...] = (PICTURE,), **request: Any) -> Case:
    return Case("a", "chat", images, {"prompt": prompt, **request})


def judge(local: LocalServer, *, timeout_s: float = 5.0, attempts: int = 3, **settings: Any) -> ChatJudge:
    server = Server(local.url, KEY, timeout_s=timeout_s, attempts=attempts, pause_s=0.01)
    return ChatJudge("vlm", Endpoint(server), **settings)


def test_a_question_travels_with_its_pictures_and_the_reply_comes_back() -> None:
    with serve(lambda asked, number: says(" Yes. ")) as local:
        other = PICTURE[::-1]
        [verdict] = judge(local)([chat(images=(PICTURE, other), system="Be fair.")])
    assert (verdict.status, verdict.value) == ("ok", "Yes.")
    asked = local.asked[0]
    assert asked.path == "/v1/chat/completions" and asked.headers["Authorization"] == f"Bearer {KEY}"
    body = asked.json
    assert (body["model"], body["temperature"], body["seed"]) == ("vlm", 0.0, 0)
    assert body["messages"][0] == {"role": "system", "content": "Be fair."}
    first, second, text = body["messages"][1]["content"]
    assert text == {"type": "text", "text": "Is there a dog?"}
    for part, picture in ((first, PICTURE), (second, other)):
        name, data = part["image_url"]["url"].split(",")
        assert name == "data:image/png;base64"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), picture)


def test_pictures_may_follow_the_question() -> None:
    with serve(lambda asked, number: says("no")) as local:
        judge(local)([chat(images=(PICTURE,)), chat("q")])
        case = Case("b", "chat", (PICTURE,), {"prompt": "q", "images": "after", "max_tokens": 7})
        judge(local)([case])
    last = local.asked[-1].json
    assert [part["type"] for part in last["messages"][0]["content"]] == ["text", "image_url"] and last["max_tokens"] == 7


def test_what_is_kept_holds_question_and_reply_and_no_secret() -> None:
    def answer(asked: Asked, number: int) -> Answer:
        if number == 0:
            return Answer({"error": f"busy; your key {KEY} is fine"}, 503)
        return says("Yes")

    with serve(answer) as local:
        found = judge(local)([chat("Is it red?")])
    [verdict] = found
    kept = json.dumps(verdict.raw)
    assert KEY not in kept and KEY not in verdict.identity
    assert verdict.raw["reply"] == "Yes" and "Is it red?" in kept and "base64" not in kept
    assert f"sha256:{chat().pictures_sha256[0]}" in kept
    assert [entry["status"] for entry in verdict.raw["attempts"]] == ["error", "ok"]
    assert "your key *** is fine" in verdict.raw["attempts"][0]["reason"]


def test_a_busy_server_is_asked_again_and_a_broken_one_is_given_up() -> None:
    with serve(lambda asked, number: says("ok") if number == 2 else Answer("later", 429, {"Retry-After": "0"})) as local:
        assert judge(local)([chat()])[0].value == "ok"
    assert len(local.asked) == 3
    with serve(lambda asked, number: Answer("gone wrong", 500)) as local:
        [verdict] = judge(local)([chat()])
    assert (verdict.status, len(local.asked)) == ("error", 3) and "HTTP 500" in verdict.reason
    [verdict] = judge(local)([chat()])  # nobody listens there any more
    assert verdict.status == "error" and len(verdict.raw["attempts"]) == 3


def test_a_wrong_request_is_not_sent_twice() -> None:
    with serve(lambda asked, number: Answer("no such field", 400)) as local:
        [verdict] = judge(local)([chat()])
    assert (verdict.status, len(local.asked)) == ("error", 1)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (says(None), "refused"),
        (says("  "), "refused"),
        (says("x", finish_reason="content_filter"), "refused"),
        (says(None, message={"content": None, "refusal": "I cannot look at people."}), "refused"),
        (Answer({"error": {"code": "content_filter", "message": "jailbreak"}}, 400), "refused"),
        (Answer({"error": {"code": "content_policy_violation"}}, 403), "refused"),
        (Answer(b"<html>not JSON</html>"), "error"),
        (Answer({"choices": []}), "error"),
        (Answer([1, 2]), "error"),
    ],
)
def test_refusals_and_rubbish_are_statuses(answer: Answer, status: str) -> None:
    with serve(lambda asked, number: answer) as local:
        [verdict] = judge(local)([chat()])
    assert (verdict.status, verdict.value) == (status, None) and verdict.reason
    assert len(local.asked) == 1  # said is said: asking again would keep the good ones


def test_silence_is_a_timeout() -> None:
    free = threading.Event()

    def silent(asked: Asked, number: int) -> Answer:
        free.wait(5)
        return says("too late")

    with serve(silent) as local:
        [verdict] = judge(local, timeout_s=0.1, attempts=2)([chat()])
        free.set()
    assert verdict.status == "timeout" and "0.1 s" in verdict.reason and len(verdict.raw["attempts"]) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_stops_the_run(status: int) -> None:
    with serve(lambda asked, number: Answer({"error": "no"}, status)) as local, pytest.raises(ConfigError, match=str(status)):
        ask(judge(local), [chat()])


def test_addresses_lose_their_secrets_and_must_be_addresses() -> None:
    server = Server("https://me:pw@host.example:8443/v1?token=abc", KEY)
    assert server.identity == "https://host.example:8443/v1"
    with pytest.raises(InputError, match="not the address"):
        Server("localhost:8000")


def test_questions_go_out_together() -> None:
    def slow(asked: Asked, number: int) -> Answer:
        time.sleep(0.05)
        return says(asked.text)

    with serve(slow) as local:
        verdicts = judge(local, workers=8)([chat(f"q{number}") for number in range(16)])
    assert [verdict.value for verdict in verdicts] == [f"q{number}" for number in range(16)]


def test_a_model_that_reads_answers_in_lines() -> None:
    replies = {"default": "HELLO\n\n  world ", "mine": "No text recognized."}
    with serve(lambda asked, number: says(replies["mine" if asked.text == "mine" else "default"])) as local:
        read = judge(local)([Case("a", "ocr", (PICTURE,)), Case("b", "ocr", (PICTURE,), {"prompt": "mine"})])
    assert [[line["text"] for line in verdict.value] for verdict in read] == [["HELLO", "world"], []]
    assert read[0].value[0]["box"][2] == [8.0, 6.0]
    assert "ocr" not in judge(local, read=False).kinds


SCHEMA = {
    "type": "object",
    "required": ["score"],
    "properties": {
        "score": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer", "minimum": 0, "maximum": 10}}
    },
}


@pytest.mark.parametrize(
    "reply",
    [
        '{"score": [3, 10]}',
        '```json\n{"score": [3, 10], "why": "x"}\n```',
        'I think {"score": [3, 10]} is fair.',
        '{"score": [3, 10.0]}',
    ],
)
def test_one_json_value_is_found_wherever_it_stands(reply: str) -> None:
    assert parse_json(reply, SCHEMA)["score"] == [3, 10]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("seven", "no JSON"),
        ('{"score": [3]}', "1 items"),
        ('{"score": [3, 11]}', "outside"),
        ('{"score": [3, "8"]}', "not integer"),
        ('{"score": [3, true]}', "not integer"),
        ('{"points": [3, 4]}', "no 'score'"),
        ('{"score": [3, 4]} or {"score": [5, 6]}', "2 JSON values"),
        ('{"score": [3, 4', "no JSON|not"),
    ],
)
def test_replies_that_do_not_fit_are_parse_errors(reply: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(reply, SCHEMA)
    with serve(lambda asked, number: says(reply)) as local:
        [verdict] = judge(local)([chat(schema=SCHEMA)])
    assert (verdict.status, verdict.value, verdict.raw["reply"], len(local.asked)) == ("parse_error", None, reply, 1)


def test_schemas_check_words_and_names_and_know_their_limits() -> None:
    check("yes", {"enum": ["yes", "no"]})
    check({"a": 1}, {"type": ["object", "null"], "properties": {"a": {"type": "number"}}, "additionalProperties": False})
    with pytest.raises(ValueError, match="not one of"):
        check("maybe", {"enum": ["yes", "no"]})
    with pytest.raises(ValueError, match="b, which was not asked for"):
        check({"a": 1, "b": 2}, {"properties": {"a": {}}, "additionalProperties": False})
    with pytest.raises(ValueError, match="oneOf"):
        check(1, {"oneOf": []})


def test_recorded_replies_answer_for_the_endpoint(tmp_path: Path) -> None:
    book = tmp_path / "verdicts.jsonl"
    with serve(lambda asked, number: says(asked.text.upper())) as local:
        verdicts = judge(local)([chat("yes"), chat("no")])
    rows = [{"status": verdict.status, "raw": verdict.raw} for verdict in verdicts]
    book.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half a li', encoding="utf-8")
    replay = ChatJudge("vlm", Replay(book))
    again = replay([chat("no"), chat("yes"), chat("never asked"), chat("yes", images=(PICTURE[::-1],))])
    assert [verdict.value for verdict in again] == ["NO", "YES", None, None]
    assert again[2].status == "error" and "no reply is recorded" in again[2].reason
    (tmp_path / "none.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="no recorded reply"):
        Replay(tmp_path / "none.jsonl")


def test_a_function_that_raises_fails_for_its_own_case() -> None:
    def length(case: Case) -> int:
        if not case.images:
            raise TimeoutError("nothing to see")
        return len(case.images)

    counts = FunctionJudge(length, "count/1", ["chat"])
    verdicts = ask(counts, [chat(), chat(images=()), chat(images=(PICTURE, PICTURE))])
    assert [(verdict.status, verdict.value) for verdict in verdicts] == [("ok", 1), ("timeout", None), ("ok", 2)]


def test_values_combine() -> None:
    assert combine([1, 2, 6]) == 3 and combine([1, 2, 6], "median") == 2
    assert combine(["a", "b", "a"]) == "a" and combine([True, True, False]) is True
    assert combine([{"s": [1, 3], "w": "x"}, {"s": [3, 5], "w": "x"}]) == {"s": [2, 4], "w": "x"}
    with pytest.raises(ValueError, match="no majority"):
        combine(["a", "b"])


def scripted(*values: Any, identity: str = "s") -> FunctionJudge:
    """Gives ``values`` in turn; an exception among them is raised."""
    queue = iter(values)

    def next_value(case: Case) -> Any:
        value = next(queue)
        if isinstance(value, Exception):
            raise value
        return value

    return FunctionJudge(next_value, identity, ["chat"])


def test_a_quorum_of_a_panel_answers() -> None:
    panel = Panel(
        [scripted(4, identity="a"), scripted(TimeoutError("slow"), identity="b"), scripted(8, identity="c")], quorum=2
    )
    [verdict] = panel([chat()])
    assert (verdict.status, verdict.value) == ("ok", 6)
    assert [opinion["status"] for opinion in verdict.raw["opinions"]] == ["ok", "timeout", "ok"]
    assert all(name in panel.identity for name in ("a;", "b;", "c", "quorum 2"))
    [verdict] = Panel([scripted(4), scripted(TimeoutError("slow")), scripted(TimeoutError("slow"))])([chat()])
    assert (verdict.status, verdict.value) == ("timeout", None) and "1 of 3 opinions, 2 are needed" in verdict.reason


def test_repeats_are_different_questions() -> None:
    with serve(lambda asked, number: says(str(asked.json["seed"]))) as local:
        [verdict] = Panel([judge(local, workers=1)], repeats=3, quorum=3)([chat()])
    assert [asked.json["seed"] for asked in local.asked] == [0, 1, 2]
    assert verdict.status == "error" and "no majority" in verdict.reason


def test_a_judge_that_prefers_a_place_cancels_itself_out() -> None:
    better = FunctionJudge(lambda case: "A" if case.images[0].sum() > case.images[1].sum() else "B", "fair", ["chat"])
    biased = FunctionJudge(lambda case: "A", "first", ["chat"])
    dark, light = PICTURE * 0, PICTURE * 0 + 9
    pair = {"pairwise": ("A", "B"), "tie": "tie"}
    for images, winner in (((dark, light), "B"), ((light, dark), "A")):
        assert Panel([better], swap=True)([chat(images=images, **pair)])[0].value == winner
        assert Panel([biased], swap=True)([chat(images=images, **pair)])[0].value == "tie"
    [verdict] = Panel([biased], swap=True)([chat(images=(dark, light), pairwise=("A", "B"))])
    assert verdict.status == "error" and "one order" in verdict.reason
    assert Panel([biased], swap=True)([chat()])[0].value == "A"  # not a pair: asked once


@pytest.mark.parametrize(("judges", "repeats", "quorum"), [(0, 1, None), (1, 0, None), (1, 2, 3), (2, 1, 0)])
def test_impossible_panels_are_refused(judges: int, repeats: int, quorum: int | None) -> None:
    with pytest.raises(ConfigError, match="quorum"):
        Panel([scripted(1)] * judges, repeats=repeats, quorum=quorum)


def test_keys_of_cases_depend_on_what_is_asked_only() -> None:
    case = chat()
    assert case.key("j") == Case("other id", "chat", (PICTURE.copy(),), {"prompt": "Is there a dog?"}).key("j")
    others = [chat("Is there a cat?"), chat(images=(PICTURE[::-1],)), chat(images=(PICTURE, PICTURE)), chat(max_tokens=3)]
    assert len({case.key("j"), case.key("k"), *(other.key("j") for other in others)}) == 6
    pixels = [Case("a", "pixels", (), {"measure": "m", "sha256": ["1"], "files": [path]}) for path in ("/x/a.png", "/y/a.png")]
    assert pixels[0].key("j") == pixels[1].key("j")


def test_asking_survives_any_judge() -> None:
    class Short:
        identity, kinds = "short", frozenset({"chat"})

        def __call__(self, cases: Any) -> list[Verdict]:
            return [Verdict("ok", 1, {}, "short") for _ in cases][:-1]

    verdicts = ask(Short(), [chat(), chat()])
    assert [verdict.status for verdict in verdicts] == ["error", "error"] and "0 verdicts for 1" in verdicts[0].reason
    assert failed("j", "refused", "why", reply="no").raw == {"reason": "why", "reply": "no"}
