"""A reward as a server: what the reward `http` of another program asks. docs/reward_servers.md describes what is said.

Requests are received side by side and judged one after the other, because few judges may be called twice at once. The
description is answered meanwhile. Nothing that a request holds is run, stored or logged.
"""

import contextlib
import json
import os
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

from ..errors import Blip3oError, first_line, shown
from ..files import parse_json
from .interface import Candidates
from .mix import Part, RewardMix
from .wire import PATH, PROTOCOL, Limits, TooMuch, Unpacked, range_to_wire, unpack, values_to_wire

PORT = 8190
_CONNECTIONS = 64  # each has a thread
_ROOM = 8  # requests that are received, wait or are judged
_RETRY_AFTER = 2  # seconds
_SLOWEST = 300.0  # seconds for a whole request to arrive
_DRAINED = 5.0  # seconds in which a refused request is still received, so that its sender reads why
_GRACE = 5.0  # seconds for the request that is judged when the server is stopped
_PIECE = 2**16


class RewardServer(socketserver.ThreadingTCPServer):
    """`part`: the reward. Where it fails, its images are asked one by one, so that the faulty ones are known."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there, two servers would share a port
    request_queue_size = 64

    def __init__(self, part: Part, place: tuple[str, int], limits: Limits, say: Callable[[str], None] = lambda _: None):
        host, port = place
        self.part, self.limits, self.say = part, limits, say
        self.mix = RewardMix([replace(part, on_error="skip")])  # what fails is told to the client
        self.judging, self.room = threading.Lock(), threading.BoundedSemaphore(_ROOM)
        self.connections = threading.BoundedSemaphore(_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise Blip3oError(
                f"Cannot listen at {shown(host)}, port {port}: {first_line(error)}. Choose another --port or --host."
            ) from error

    @property
    def url(self) -> str:
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def serve(self) -> None:
        """Answer until an exception such as Ctrl-C's ends it; what is judged then still has a few seconds."""
        try:
            self.serve_forever(poll_interval=0.1)
        finally:
            self.server_close()
            if self.judging.acquire(timeout=_GRACE):
                self.judging.release()

    def describe(self) -> dict:
        reward = self.part.reward
        return {
            "protocol": PROTOCOL,
            "name": self.part.name,
            "version": str(reward.version),
            "range": range_to_wire(reward.range),
            "limits": self.limits.to_wire(),
        }

    def judge(self, body: bytes) -> dict:
        """The answer to a request. Raises Blip3oError where it is refused."""
        began = time.monotonic()
        content = parse_json(body.decode("utf-8", "strict"), "The request", "")
        request = unpack(content, self.limits)
        values = self._values(request)
        faults = [value for value in values if isinstance(value, str)]
        text = f"judged {request.count} image{'s'[: request.count != 1]} in {time.monotonic() - began:.1f} s"
        self.say(f"{text}; {len(faults)} could not be judged. {faults[0]}" if faults else text)
        facts = self.describe()
        return {name: facts[name] for name in ("protocol", "name", "version")} | {"values": values_to_wire(values)}

    def _values(self, request: Unpacked) -> list[float | None | str]:
        """A number, None or what went wrong, for each image of the request."""
        values: list[float | None | str] = [request.errors.get(place) for place in range(request.count)]
        found = self._scores(request.candidates) if request.places else []
        for place, value in zip(request.places, found, strict=True):
            values[place] = value
        return values

    def _scores(self, candidates: Candidates) -> list:
        scores = self.mix.score(candidates)
        if not scores.problems:
            return list(scores.parts[self.part.name])
        if len(candidates.images) == 1:
            return scores.problems
        c, ones = candidates, [slice(place, place + 1) for place in range(len(candidates.images))]
        each = (Candidates(c.images[k], c.prompts[k], c.references[k], c.masks[k], c.meta[k]) for k in ones)
        return [value for one in each for value in self._scores(one)]

    def process_request(self, request, client_address) -> None:
        if self.connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request, client_address) -> None:
        """http.server's own prints a traceback for every client that hangs up."""


class _Refusal(Exception):
    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "blip3o-reward", ""
    timeout = 30.0  # seconds without a byte until a connection is closed

    def do_GET(self) -> None:
        if self.path == PATH:
            self._answer(200, self.server.describe())
        else:
            self._answer(404, {"error": f"This is a reward server. {PATH} describes it."})

    def do_POST(self) -> None:
        try:
            length = self._check_head()
            if not self.server.room.acquire(blocking=False):
                raise _Refusal(503, "Other requests are waiting. Send it again later.")
            try:
                self._answer(200, self._judged(self._body(length)))
            finally:
                self.server.room.release()
        except _Refusal as refusal:
            self._answer(refusal.status, {"error": str(refusal)})
            self._drain()

    def _check_head(self) -> int:
        """The bytes of the body. Refuses, before it is read, what is not for this server."""
        length = self.headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
        if self.path != PATH:
            raise _Refusal(404, f"Requests go to {PATH}.")
        # Pages in a browser of this machine can send to it: always with an Origin, and JSON only if they may.
        if self.headers.get("Origin") is not None:
            raise _Refusal(403, "Requests of web pages are not answered.")
        if self.headers.get_content_type() != "application/json":
            raise _Refusal(415, "The request must have the Content-Type application/json.")
        if size is None:
            raise _Refusal(411, "The request must say its size as Content-Length.")
        most = self.server.limits.request_bytes
        if size > most:
            raise _Refusal(413, f"The request has {size:,} bytes; this server takes {most:,}.")
        return size

    def _body(self, length: int) -> bytes:
        deadline, found = time.monotonic() + _SLOWEST, bytearray()
        while len(found) < length:
            piece = self.rfile.read1(min(_PIECE, length - len(found)))
            if not piece:
                raise ConnectionError
            if time.monotonic() > deadline:
                raise _Refusal(408, f"The request did not arrive within {_SLOWEST:g} seconds.")
            found += piece
        return bytes(found)

    def _judged(self, body: bytes) -> dict:
        with self.server.judging:
            if self._has_left():
                raise ConnectionError
            try:
                return self.server.judge(body)
            except UnicodeDecodeError:
                raise _Refusal(400, "The request is not UTF-8 text.") from None
            except Blip3oError as error:
                raise _Refusal(413 if isinstance(error, TooMuch) else 400, str(error)) from None

    def _has_left(self) -> bool:
        """Whether the client closed the connection while it waited: it may have sent its request again."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _answer(self, status: int, content: dict) -> None:
        data = json.dumps(content, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        if status == 503:
            self.send_header("Retry-After", str(_RETRY_AFTER))
        self.end_headers()
        self.wfile.write(data)

    def _drain(self) -> None:
        """Receive what is still on its way: a connection that is closed before takes the answer with it."""
        deadline = time.monotonic() + _DRAINED
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_DRAINED)
            while time.monotonic() < deadline and self.rfile.read1(_PIECE):
                pass

    def log_message(self, *_) -> None:
        """Nothing: the server's `say` says what matters."""
