"""A server that speaks what downloads need of the hub's API: model info, HEAD and GET of files, redirects, ranges."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789" * 4


class Hub:
    """`files`: name -> content. The other fields are faults, and may be changed while it runs."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.requests = files, []  # (name, range) of every GET
        self.cut: dict[str, int] = {}  # name -> bytes after which the connection ends
        self.cuts = 10**6  # how many times
        self.status: int | None = None  # of every answer
        self.gone: set[str] = set()
        self.gated = self.wrong_checksum = False
        self.redirect: bool | str = False  # files lie elsewhere: on this server, or on the one with this address
        self.ranges = True  # False: every answer is the whole file
        self.tokens: list[str | None] = []  # the Authorization of every request
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub._answer(self)

            def do_GET(self):
                hub._answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request) -> None:
        self.tokens.append(request.headers.get("Authorization"))
        path = request.path.partition("?")[0]
        if self.gated:
            return self._send(
                request, 401, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access restricted"}
            )
        if self.status:
            return self._send(
                request, self.status, headers={"X-Error-Code": "RepoNotFound"} if self.status == 404 else {}
            )
        if path.startswith("/api/models/"):
            return self._send(request, 200, json.dumps(self._info(path)).encode(), {"Content-Type": "application/json"})
        name = path.rpartition("/")[2]
        if name in self.gone or name not in self.files:
            return self._send(request, 404, headers={"X-Error-Code": "EntryNotFound"})
        return self._send_file(request, name, path)

    def _info(self, path: str) -> dict:
        siblings = []
        for name, content in self.files.items():
            sha = hashlib.sha256(content + b"!" * self.wrong_checksum).hexdigest()
            entry = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if name.endswith(".json"):
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            else:
                entry["lfs"] = {"size": len(content), "sha256": sha, "pointerSize": 134}
            siblings.append(entry)
        identity = "/".join(path.split("/")[3:5])
        return {"id": identity, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "apache-2.0"}, "tags": []}

    def _send_file(self, request, name: str, path: str) -> None:
        content = self.files[name]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if self.redirect and not path.startswith("/storage/"):
            headers |= {
                "Location": f"{self.redirect if isinstance(self.redirect, str) else ''}/storage/{name}",
                "X-Linked-ETag": headers["ETag"],
                "X-Linked-Size": str(len(content)),
            }
            return self._send(request, 302, headers=headers)
        asked = request.headers.get("Range")
        if request.command == "GET":
            self.requests.append((name, asked))
        asked = asked if self.ranges else None
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        headers["Accept-Ranges"] = "bytes" if self.ranges else "none"
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        most = None
        if request.command == "GET" and self.cuts > 0 and name in self.cut:
            self.cuts -= 1
            most = self.cut[name]
        return self._send(request, 206 if asked else 200, content[start:], headers, most)

    def _send(self, request, status: int, body: bytes = b"", headers=None, most: int | None = None) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body[:most])
        if most is not None:
            request.wfile.flush()
            request.close_connection = True
