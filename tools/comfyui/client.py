"""What a user's browser says to ComfyUI, without the browser: HTTP to ask, one websocket to watch."""

import json
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests
import websocket

PREVIEW, PREVIEW_WITH_METADATA = 1, 4  # ComfyUI's BinaryEventTypes


class Refused(RuntimeError):
    """The server would not queue the prompt; `.node_errors` is its reason by node id."""

    def __init__(self, answer: dict):
        super().__init__(json.dumps(answer, indent=1))
        self.node_errors = answer.get("node_errors", {})


@dataclass
class Preview:
    image: bytes  # an encoded JPEG or PNG
    metadata: dict  # node_id, prompt_id, ...; empty when the server sent none


@dataclass
class Result:
    """One run, as the websocket told it. `outputs` is the history's: by node id, what its `ui` holds."""

    prompt_id: str
    status: str = "success"  # or "error", "interrupted"
    error: dict = field(default_factory=dict)
    events: list[tuple[str, dict]] = field(default_factory=list)
    cached: set[str] = field(default_factory=set)
    executed: list[str] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    outputs: dict[str, dict] = field(default_factory=dict)

    @property
    def images(self) -> list[dict]:
        """Every `{filename, subfolder, type}` of the run, for `Client.view`."""
        return [image for output in self.outputs.values() for image in output.get("images", [])]


class Client:
    def __init__(self, address: str):
        self.address = address
        self.id = uuid.uuid4().hex
        self._socket = websocket.create_connection(f"ws://{address}/ws?clientId={self.id}", timeout=30)
        # Previews carry the id of their node only for clients that ask for it, and ask first.
        self._socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def queue(self, prompt: dict, **extra_data) -> str:
        """Queue an API-format prompt and return its id; Refused when it does not validate."""
        body = {"prompt": prompt, "client_id": self.id, "extra_data": extra_data}
        answer = requests.post(self._url("/prompt"), json=body, timeout=60)
        if answer.status_code == 400:
            raise Refused(answer.json())
        answer.raise_for_status()
        return answer.json()["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 120, on_event: Callable[[str, Any], None] | None = None) -> Result:
        """Follow a queued prompt to its end. `on_event(kind, data)` sees each event, "preview" too, as it comes."""
        result = Result(prompt_id)
        deadline = time.monotonic() + timeout
        while True:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                message = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                last = result.events[-1:] or "none"
                raise TimeoutError(f"prompt {prompt_id} did not end within {timeout} s; last event: {last}") from None
            kind, data = self._read(message)
            if kind is None or (kind != "preview" and data.get("prompt_id", prompt_id) != prompt_id):
                continue
            self._note(result, kind, data)
            if on_event is not None:
                on_event(kind, data)
            # Not `execution_success`: the history is written after it and just before this one.
            if kind == "executing" and data["node"] is None:
                result.outputs = self.history(prompt_id)["outputs"]
                return result

    def run(self, prompt: dict, timeout: float = 120, on_event=None, **extra_data) -> Result:
        return self.wait(self.queue(prompt, **extra_data), timeout, on_event)

    def interrupt(self) -> None:
        requests.post(self._url("/interrupt"), timeout=30).raise_for_status()

    def free(self) -> None:
        """Unload all models and drop all cached results."""
        everything = {"unload_models": True, "free_memory": True}
        requests.post(self._url("/free"), json=everything, timeout=30).raise_for_status()

    def history(self, prompt_id: str) -> dict:
        return self.get(f"/history/{prompt_id}").json()[prompt_id]

    def object_info(self, node: str = "") -> dict:
        return self.get(f"/object_info/{node}" if node else "/object_info").json()

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        return self.get("/view", filename=filename, subfolder=subfolder, type=type).content

    def upload(self, filename: str, image: bytes) -> str:
        """Put an image into the input folder; returns the name LoadImage knows it by."""
        form = {"files": {"image": (filename, image)}, "data": {"overwrite": "true"}}
        answer = requests.post(self._url("/upload/image"), **form, timeout=60)
        answer.raise_for_status()
        return answer.json()["name"]

    def get(self, path: str, **query) -> requests.Response:
        answer = requests.get(self._url(path), params=query, timeout=60)
        answer.raise_for_status()
        return answer

    def _url(self, path: str) -> str:
        return f"http://{self.address}{path}"

    @staticmethod
    def _read(message: str | bytes) -> tuple[str | None, Any]:
        if isinstance(message, str):
            event = json.loads(message)
            return event["type"], event["data"]
        (kind,) = struct.unpack(">I", message[:4])
        if kind == PREVIEW:
            return "preview", Preview(message[8:], {})
        if kind == PREVIEW_WITH_METADATA:
            (length,) = struct.unpack(">I", message[4:8])
            return "preview", Preview(message[8 + length :], json.loads(message[8 : 8 + length]))
        return None, None

    @staticmethod
    def _note(result: Result, kind: str, data: Any) -> None:
        if kind == "preview":
            result.previews.append(data)
            return
        result.events.append((kind, data))
        if kind == "execution_cached":
            result.cached.update(data["nodes"])
        elif kind == "executing" and data["node"] is not None:
            result.executed.append(data["node"])
        elif kind in ("execution_error", "execution_interrupted"):
            result.status = kind.removeprefix("execution_")
            result.error = data
