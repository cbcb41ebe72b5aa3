"""A web server in this process that answers as a script says: what servers do when they fail, one request at a time."""

import contextlib
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler

ENOUGH = 5.0  # seconds that something here may wait when a test has failed


class StandIn(socketserver.ThreadingTCPServer):
    """Request k is answered by step k of `script`, later ones by the last step. A step is called with the handler."""

    daemon_threads = True

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.asked, self.ended = list(script), [], threading.Event()
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def bodies(self) -> list:
        """What was posted."""
        return [json.loads(body) for method, _, _, body in self.asked if method == "POST"]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_) -> None:
        """Clients that hang up are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = ENOUGH

    def do_POST(self):
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            step = self.server.script[min(len(self.server.asked), len(self.server.script) - 1)]
            self.server.asked.append((self.command, self.path, dict(self.headers), body))
        self.body = body
        step(self)

    do_GET = do_POST

    def log_message(self, *_):
        pass


def says(content, status: int = 200, **headers):
    """A step: an answer with JSON, or with text or bytes as they are."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    data = content.encode() if isinstance(content, str) else data

    def step(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(data)

    return step


def chat(text, ended="stop", **more):
    """A step: a chat completion with this text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended}
    return says({"object": "chat.completion", "model": "seer-1", "choices": [choice], **more})


def hangs(handler) -> None:
    """Never answers."""
    handler.server.ended.wait(ENOUGH)


def cut(handler) -> None:
    """Closes the connection in the middle of its answer."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"prot')


def endless(handler) -> None:
    """An answer that never ends, as fast as it is read."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.server.ended.is_set():
            handler.wfile.write(b" " * 2**16)


def trickles(handler) -> None:
    """An answer of which a byte arrives now and then."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.server.ended.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()
