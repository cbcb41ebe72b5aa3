"""JSON over HTTP with limits: one request, its answer, and the same request again where that can help.

Nothing here knows what is asked. Redirects are not followed: images would reach a server that nobody named. Proxies of
the environment are used, except for this machine.
"""

import contextlib
import ipaddress
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from ..errors import Blip3oError, first_line, shown
from ..files import parse_json

# A later try may be answered: too slow, too many requests, or a fault of the moment.
RETRIED = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT = 300.0  # seconds until the next try; a server that asks for more is given up
_ERROR_BYTES = 4096  # of an answer that only says what is wrong
_PIECE = 2**16


class NoAnswer(Blip3oError):
    """A server could not be reached, broke off or was overloaded, at every try."""


class BadAnswer(Blip3oError):
    """A server answered with something else than what was asked for."""


class Refused(Blip3oError):
    """A server refused a request with an HTTP status that another try does not change."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class _TryAgain(Exception):
    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for


def check_url(url: str) -> str:
    """An http or https address without a slash at its end. Raises Blip3oError for anything else."""
    text = url.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f]", text):
        raise Blip3oError(f"url is {shown(repr(url))}. Give an address like http://127.0.0.1:8190.")
    if parts.username is not None or parts.password is not None:
        raise Blip3oError("url has a user name or a password, which logs would show. Give the address without them.")
    if parts.query or parts.fragment:
        raise Blip3oError(f"url is {shown(repr(url))}. Give the address without '?' and '#' and what follows them.")
    return text


def is_loopback(host: str) -> bool:
    """Whether a host name or number is this machine itself."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@dataclass(frozen=True)
class Web:
    """How servers are asked."""

    timeout: float = 60.0  # seconds for one whole answer
    retries: int = 4
    wait: float = 1.0  # seconds before the first new try; doubled each time
    most_bytes: int = 4 * 2**20  # of an answer
    secret: str = field(default="", repr=False)  # a key for the server, which no message shows
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def get(self, url: str) -> dict:
        return self._ask("GET", url, None)

    def post(self, url: str, content: Mapping[str, Any]) -> dict:
        return self._ask("POST", url, json.dumps(content, allow_nan=False).encode())

    def _ask(self, method: str, url: str, body: bytes | None) -> dict:
        """The JSON object that the server answers. Raises NoAnswer, BadAnswer or Refused."""
        reason, tried = "", 0
        for tried in range(self.retries + 1):
            try:
                return self._try(method, url, body)
            except _TryAgain as again:
                reason, asked = str(again), again.wait
            if tried < self.retries:
                wait = min(self.wait * 2**tried, LONGEST_WAIT) if asked is None else asked
                if wait > LONGEST_WAIT:
                    reason += f" It asks to wait {wait:,.0f} seconds"
                    break
                self.sleep(wait)
        tries = "1 try" if tried == 0 else f"{tried + 1} tries"
        raise NoAnswer(f"{self.cleaned(reason).rstrip('.')} ({tries}). Check that the server runs, and its address.")

    def _try(self, method: str, url: str, body: bytes | None) -> dict:
        import requests

        deadline = time.monotonic() + self.timeout
        with _transport_faults(url, self.timeout), requests.Session() as session:
            # With it, requests uses the environment's proxies and certificates. Its passwords (.netrc) are not read,
            # because `auth` is given.
            session.trust_env = not is_loopback(urlsplit(url).hostname or "")
            answer = session.request(
                method,
                url,
                data=body,
                headers=self._headers(body),
                timeout=(self.timeout, self.timeout),
                allow_redirects=False,
                stream=True,
                auth=lambda request: request,
            )
            with answer:
                if answer.status_code == 200:
                    return self._object(url, self._read(url, answer, deadline))
                raise self._fault(url, answer, deadline)

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "blip3o"}
        headers |= {} if body is None else {"Content-Type": "application/json"}
        return headers | ({"Authorization": f"Bearer {self.secret}"} if self.secret else {})

    def _read(self, url: str, answer: Any, deadline: float) -> bytes:
        """The whole body, never more than `most_bytes` of it."""
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise BadAnswer(f"{shown(url)} answered with compressed data, which was not asked for. {_CHECK}")
        found = b""
        for piece in _pieces(url, answer, deadline):
            found += piece
            if len(found) > self.most_bytes:
                raise BadAnswer(
                    f"{shown(url)} answered with more than {self.most_bytes:,} bytes; the rest was not read. {_CHECK} "
                    "If answers of that size are meant, raise most_bytes."
                )
        return found

    def _object(self, url: str, data: bytes) -> dict:
        source = f"The answer of {shown(url)}"
        try:
            content = parse_json(data.decode("utf-8"), source, _CHECK)
        except UnicodeDecodeError:
            raise BadAnswer(f"{source} is not UTF-8 text. {_CHECK}") from None
        except Blip3oError as error:
            begin = self.cleaned(shown(data[:80].decode("utf-8", "replace")))
            raise BadAnswer(f"{error} It begins with: {begin}") from None
        if not isinstance(content, dict):
            raise BadAnswer(f"{source} is {_kind(content)}, not an object. {_CHECK}")
        return content

    def _fault(self, url: str, answer: Any, deadline: float) -> Exception:
        """What a status other than 200 means."""
        status = answer.status_code
        if 300 <= status < 400:
            place = shown(answer.headers.get("Location", "nowhere"))
            return Refused(
                f"{shown(url)} redirects to {self.cleaned(place)}, which is not followed: another server would get "
                "the images. If that is the right server, give its address as url.",
                status,
            )
        said = self.cleaned(shown(_said(url, answer, deadline), 400)).rstrip(".")
        reason = f"{shown(url)} answered with status {status}" + (f": {said}" if said else "")
        if status in RETRIED:
            return _TryAgain(reason, _retry_after(answer.headers.get("Retry-After")))
        return Refused(f"{reason}. {_ADVICE.get(status, _CHECK)}", status)

    def cleaned(self, text: str) -> str:
        """Servers repeat a wrong key in what they say."""
        return text.replace(self.secret, "***") if self.secret else text


_CHECK = "Check the address."
_ADVICE = {
    400: "Change what it names.",
    401: "Check the key.",
    403: "Check the key, and what it allows.",
    404: "Check the address and the name of the model.",
    413: "Send fewer or smaller images.",
    422: "Change what it names.",
}


@contextlib.contextmanager
def _transport_faults(url: str, timeout: float) -> Iterator[None]:
    """What goes wrong between here and a server, as _TryAgain where another try may help."""
    import requests
    import urllib3

    try:
        yield
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _TryAgain(f"{shown(url)} did not answer within {timeout:g} seconds.") from error
    except requests.exceptions.SSLError as error:
        raise Refused(f"{shown(url)} has no certificate that is trusted here: {_why(error)}. {_CHECK}", 0) from error
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise _TryAgain(f"{shown(url)} cannot be reached, or broke off: {_why(error)}.") from error
    except requests.RequestException as error:
        raise Refused(f"{shown(url)} cannot be asked: {_why(error)}. {_CHECK}", 0) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _TryAgain(f"{shown(url)} broke off its answer: {_why(error)}.") from error


def _why(error: BaseException) -> str:
    """The innermost reason: libraries wrap it several times, each with all that is inside."""
    seen = error
    for _ in range(8):
        inner = getattr(seen, "reason", None) or next((a for a in seen.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            break
        seen = inner
    return shown(re.sub(r"^.*?object at 0x[0-9a-f]+>[:,] ", "", first_line(seen))).rstrip(".")


def _pieces(url: str, answer: Any, deadline: float) -> Iterator[bytes]:
    """A body as it arrives, until the deadline: a server that sends a byte a minute has not answered."""
    read = getattr(answer.raw, "read1", answer.raw.read)
    while piece := read(_PIECE):
        yield piece
        if time.monotonic() > deadline:
            raise _TryAgain(f"{shown(url)} did not complete its answer within the timeout.")


def _said(url: str, answer: Any, deadline: float) -> str:
    """What an answer with an error says: its `error`, or how it begins."""
    found = b""
    for piece in _pieces(url, answer, deadline):
        found += piece
        if len(found) >= _ERROR_BYTES:
            break
    text = found[:_ERROR_BYTES].decode("utf-8", "replace").strip()
    with contextlib.suppress(Blip3oError, AttributeError):
        content = parse_json(text, "", "")
        error = content.get("error", content.get("detail", text))
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    return " ".join(text.split())


def _retry_after(text: str | None) -> float | None:
    """Seconds, from a number or a date."""
    if not text:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(text)
        return max(0.0, seconds) if seconds == seconds else None
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _kind(value: Any) -> str:
    names = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
