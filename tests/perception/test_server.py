"""Waiting for servers, and secrets that no record shows. Nothing here waits: pauses are counted, not slept."""

import threading
import time
from email.utils import formatdate
from typing import Any

import pytest

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.perception.chat import Endpoint, read_completion
from glyphflow.perception.server import Reply, Server
from local_server import Answer, Asked, says, serve

KEY = "sk-do-not-write-me-down"


class Clock(threading.Event):
    """Takes the pauses, and lets none pass."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        return self.is_set()


def ask(answers: list[Answer], clock: Clock, **settings: Any) -> Reply:
    """The reply of a server that gives ``answers`` one after another, the last one for ever."""
    with serve(lambda asked, number: answers[min(number, len(answers) - 1)]) as local:
        server = Server(local.url, KEY, timeout_s=5, stopped=clock, **settings)
        return server.post(server.at("chat/completions"), b"{}", "application/json", read_completion)


@pytest.mark.parametrize("code", [429, 502, 503, 529])
def test_a_busy_server_is_waited_for_by_time_and_not_by_number(code: int) -> None:
    clock = Clock()
    reply = ask([Answer("slow", code)] * 9 + [says("ok")], clock, patience_s=600)
    assert reply.status == "ok" and len(reply.attempts) == 10
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(clock.pauses, (1, 2, 4, 8, 16, 32, 60, 60, 60), strict=True))


def test_patience_ends_and_a_broken_server_gets_none() -> None:
    clock = Clock()
    reply = ask([Answer("slow", 503)], clock, patience_s=600)
    assert reply.status == "error" and 250 < sum(clock.pauses) < 600
    assert len(ask([Answer("broken", 500)], Clock(), patience_s=600).attempts) == 4
    assert len(ask([Answer("slow", 503)], Clock()).attempts) == 4  # nobody asked for patience


@pytest.mark.parametrize(
    ("headers", "body", "pause"),
    [
        ({"Retry-After": "90"}, "", 90),
        ({"Retry-After": "7.5"}, "", 7.5),
        ({"retry-after-ms": "8500", "Retry-After": "1"}, "", 8.5),
        ({}, "Rate limit reached for requests per min. Please try again in 20s.", 20),
        ({}, "Please try again in 1m30.5s", 90.5),
        ({}, "Please retry after 12 seconds.", 12),
        ({"Retry-After": "soon"}, "later", 0),
    ],
)
def test_a_server_is_given_the_time_that_it_asks_for(headers: dict[str, str], body: str, pause: float) -> None:
    clock = Clock()
    reply = ask([Answer({"error": body}, 429, headers), says("ok")], clock, patience_s=600)
    assert reply.status == "ok" and clock.pauses[0] == pytest.approx(max(pause, clock.pauses[0] if pause < 1 else 0))


def test_a_date_is_a_time_to_wait_for_and_one_far_away_is_not_waited_for() -> None:
    clock = Clock()
    ask([Answer("slow", 503, {"Retry-After": formatdate(time.time() + 100, usegmt=True)}), says("ok")], clock, patience_s=600)
    assert 97 < clock.pauses[0] <= 100
    clock = Clock()
    assert ask([Answer("slow", 429, {"Retry-After": "86400"})], clock, patience_s=600).status == "error" and not clock.pauses


def test_a_run_that_ends_waits_no_longer() -> None:
    clock = Clock()
    clock.set()
    assert len(ask([Answer("slow", 503)], clock, patience_s=600).attempts) == 1


def test_an_error_within_an_answer_counts_as_its_status() -> None:
    """As gateways give the errors of the servers behind them."""
    clock = Clock()
    assert ask([Answer({"error": {"code": 429, "message": "busy"}}), says("ok")], clock).status == "ok"
    told = ask([Answer({"error": {"code": 400, "message": "too long"}})], clock)
    assert told.rejected and "too long" in told.text


@pytest.mark.parametrize("code", [403, 404, 405])
def test_one_rejection_after_answers_is_about_its_request(code: int) -> None:
    with serve(lambda asked, number: Answer({"error": "no"}, code) if number else says("ok")) as local:
        endpoint = Endpoint(Server(local.url, KEY))
        assert endpoint.send({}, {}).status == "ok"
        reply = endpoint.send({}, {})
        assert reply.status == "error" and f"HTTP {code}" in reply.text and not reply.rejected
    with serve(lambda asked, number: Answer({"error": "no"}, code)) as local, pytest.raises(ConfigError, match=str(code)):
        Endpoint(Server(local.url, KEY)).send({}, {})


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"error": "key"}, 401),
        Answer({"error": "pay"}, 402),
        Answer({"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}, 429),
        Answer("", 301, {"Location": "http://127.0.0.1:9/"}),
        Answer("", 307, {"Location": "http://127.0.0.1:9/"}),
    ],
)
def test_what_no_request_can_mend_ends_the_run_at_any_time(answer: Answer) -> None:
    with serve(lambda asked, number: answer if number else says("ok")) as local:
        endpoint = Endpoint(Server(local.url, KEY, patience_s=600))
        assert endpoint.send({}, {}).status == "ok"
        with pytest.raises(ConfigError) as told:
            endpoint.send({}, {})
    assert KEY not in str(told.value) and len(local.asked) == 2


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown() -> None:
    for key in ("sk-one\nsk-two", "sk-schl\u00fcssel", "sk one two", "sk-\x07bell"):
        with pytest.raises(ConfigError, match="no header can carry") as told:
            Server("http://localhost/v1", key)
        assert key not in str(told.value) and "sk" not in str(told.value)


def test_secrets_in_an_address_are_used_and_shown_nowhere() -> None:
    def answer(asked: Asked, number: int) -> Answer:
        return Answer({"error": f"{asked.path} of {asked.headers['Authorization']} with pa:ss"}, 400)

    with serve(answer) as local:
        place = local.url.removeprefix("http://")
        endpoint = Endpoint(Server(f"http://me:pa%3Ass@{place}?api-version=secret-1"))
        reply = endpoint.send({"messages": []}, {})
    assert local.asked[0].path == "/v1/chat/completions?api-version=secret-1"
    assert local.asked[0].headers["Authorization"] == "Basic bWU6cGE6c3M="
    assert "secret-1" not in reply.text and "pa:ss" not in reply.text and "bWU6cGE6c3M=" not in reply.text
    assert endpoint.identity == f"http://{place}"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/v1", "http://", "http://host:port/v1", "http://ho st/v1", "http://hôte/v1"]
)
def test_what_is_no_address_is_a_sentence(url: str) -> None:
    with pytest.raises(InputError, match="is not the address"):
        Server(url)
    with pytest.raises(InputError) as told:
        Server("http://me:secret@host:port/v1")
    assert "secret" not in str(told.value)
