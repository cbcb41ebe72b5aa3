"""One JSON request: every fault of a server by name, and another try where that can help and nowhere else."""

from dataclasses import replace

import pytest

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.web import BadAnswer, NoAnswer, Refused, Web, check_url
from tests.support.stand_in import StandIn, cut, endless, hangs, says, trickles

SECRET = "key-0123456789"
GOOD = says({"answer": 1})


def web(waits=None, **more) -> Web:
    waits = [] if waits is None else waits
    return replace(Web(timeout=2, retries=2, wait=1, most_bytes=2**18, secret=SECRET, sleep=waits.append), **more)


PASSING = {
    "429": says({"error": {"message": "slow down"}}, 429),
    "500": says("Internal Server Error", 500),
    "503": says({"detail": "loading"}, 503),
    "cut": cut,
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_of_the_moment_is_asked_again(name):
    """Catches a run that ends because a server was busy for a second."""
    waits = []
    with StandIn(PASSING[name], PASSING[name], GOOD) as server:
        assert web(waits).post(server.url, {"a": 1}) == {"answer": 1}
        assert server.bodies == [{"a": 1}] * 3
    assert waits == [1, 2]


def test_the_server_says_how_long_to_wait():
    """Catches tries that a server with a limit on its rate counts against its client."""
    waits = []
    late = "Wed, 21 Oct 2015 07:28:00 GMT"  # in the past: at once
    with StandIn(says("", 429, Retry_After=7), says("", 503, Retry_After=late), GOOD) as server:
        web(waits).get(server.url)
    assert waits == [7, 0]
    with StandIn(says("", 429, Retry_After=99999)) as server, pytest.raises(NoAnswer, match="wait 99,999 seconds"):
        web(waits).get(server.url)
    assert waits == [7, 0]


def test_a_server_that_is_dead_is_named():
    """Catches tries without end, and a message that is a page of library internals."""
    with StandIn(GOOD) as server:
        url = server.url
    waits = []
    with pytest.raises(NoAnswer, match=r"cannot be reached.*refused.*\(3 tries\)") as error:
        web(waits).post(url, {})
    assert url in str(error.value) and "object at" not in str(error.value) and waits == [1, 2]


SLOW = {"hangs": hangs, "trickles": trickles}


@pytest.mark.parametrize("name", SLOW)
def test_a_server_that_never_answers(name):
    """Catches a run that stands still for ever, also where a byte arrives now and then."""
    with StandIn(SLOW[name]) as server:
        with pytest.raises(NoAnswer, match="did not"):
            web(timeout=0.1, retries=1).get(server.url)
        assert len(server.asked) == 2


FINAL = {
    "endless": (endless, BadAnswer, "more than 262,144 bytes"),
    "html": (says("<html><body>Sign in</body></html>"), BadAnswer, "cannot be read as JSON.*<html>"),
    "cut short": (says('{"answer": [1, 2'), BadAnswer, "cannot be read as JSON"),
    "list": (says([1]), BadAnswer, "is a list"),
    "bytes": (says(b'"\xff\xfe"'), BadAnswer, "not UTF-8"),
    "deep": (says("[" * 100_000), BadAnswer, "nested too deeply"),
    "packed": (says(b"\x1f\x8b", Content_Encoding="gzip"), BadAnswer, "compressed"),
    "redirect": (says("", 307, Location="http://example.com/v1"), Refused, "redirects to http://example.com"),
    "400": (says({"error": {"message": "no such seed"}}, 400), Refused, "status 400: no such seed"),
    "401": (says({"error": f"wrong key {SECRET}"}, 401), Refused, r"wrong key \*\*\*. Check the key"),
    "404": (says("<h1>no</h1>", 404), Refused, "status 404"),
}


@pytest.mark.parametrize("name", FINAL)
def test_what_another_try_does_not_change_is_not_tried_again(name):
    """Catches images sent to a server that nobody named, a memory that an answer fills, a key in a message."""
    step, kind, words = FINAL[name]
    with StandIn(step) as server:
        with pytest.raises(kind, match=words) as error:
            web().post(server.url, {})
        assert len(server.asked) == 1
        assert SECRET not in str(error.value)


def test_the_key_is_sent_and_never_shown(monkeypatch):
    """Catches a key in a log of settings, and proxies or passwords of the environment used for this machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    asker = web()
    with StandIn(GOOD) as server:
        asker.get(server.url)
        assert server.asked[0][2]["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in repr(asker)


def test_a_proxy_of_the_environment_is_for_other_machines(monkeypatch):
    """Catches a company's proxy that is not used, without which no hosted model can be reached."""
    with StandIn(GOOD) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        assert web().get("http://judge.invalid/v1") == {"answer": 1}
        assert proxy.asked[0][1] == "http://judge.invalid/v1"


WRONG = ["", "127.0.0.1:80", "file:///etc/passwd", "ftp://a", "http://", "http://a b", "http://a:99999", "http://[::"]
WRONG += ["http://user:pass@a", "http://a?b=1", "http://a#b"]


@pytest.mark.parametrize("url", WRONG)
def test_wrong_addresses(url):
    """Catches a local file that is read as an answer, and a password that gets into logs."""
    with pytest.raises(Blip3oError, match="url") as error:
        check_url(url)
    assert "pass@" not in str(error.value)


def test_right_addresses():
    """Catches a path or a port that is lost."""
    assert check_url(" http://[::1]:80/v1/ ") == "http://[::1]:80/v1"
    assert check_url("https://a.example/x") == "https://a.example/x"
