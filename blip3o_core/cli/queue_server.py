"""A ComfyUI server over HTTP: upload images, queue workflows in API format, wait, fetch what they made."""

import time
import uuid
from dataclasses import dataclass
from typing import Any

from ..errors import Blip3oError, first_line, shown

SUBFOLDER = "blip3o-queue"  # of the server's input folder
POLL_SECONDS = 0.3


class RowFailed(Blip3oError):
    """The server refused or broke off one prompt; others may work."""


@dataclass(frozen=True)
class Server:
    """`address`: as in the browser, such as http://127.0.0.1:8188."""

    address: str
    client: str = uuid.uuid4().hex

    def queue(self, prompt: dict) -> str:
        """The id under which the server makes the prompt. Raises RowFailed, in the server's words, if it refuses."""
        answer = self._ask("post", "/prompt", json={"prompt": prompt, "client_id": self.client})
        if answer.status_code == 400:
            raise RowFailed(_refusal(self._json(answer)))
        return str(self._json(answer).get("prompt_id"))

    def upload(self, name: str, data: bytes) -> None:
        """Put an image into the server's input folder as SUBFOLDER/name; what is there under that name is replaced."""
        form = {"files": {"image": (name, data)}, "data": {"overwrite": "true", "subfolder": SUBFOLDER}}
        self._json(self._ask("post", "/upload/image", **form))

    def wait(self, prompt_id: str) -> list[dict]:
        """The images of a queued prompt, as the server names them: saved ones, or previews where none is saved."""
        while True:
            entry = self._json(self._ask("get", f"/history/{prompt_id}")).get(prompt_id)
            if entry is not None:
                return _images(entry)
            queue = self._json(self._ask("get", "/queue"))
            waiting = [item[1] for key in ("queue_running", "queue_pending") for item in queue.get(key, ())]
            # Between the two questions it may have ended.
            if prompt_id not in waiting and prompt_id not in self._json(self._ask("get", f"/history/{prompt_id}")):
                raise Blip3oError(
                    f"The server at {self.address} no longer knows this image: it was restarted, or its queue was "
                    "cleared. Run the same command again to resume."
                )
            time.sleep(POLL_SECONDS)

    def fetch(self, image: dict) -> bytes:
        names = {name: image.get(name, "") for name in ("filename", "subfolder", "type")}
        answer = self._ask("get", "/view", params=names)
        if answer.status_code != 200:
            raise Blip3oError(f"The server has no {shown(names['filename'])} any more. Run the same command again.")
        return answer.content

    def cancel(self, prompt_ids: list[str]) -> None:
        """Take prompts out of the queue, and interrupt the one that runs."""
        self._ask("post", "/queue", json={"delete": prompt_ids})
        for prompt_id in prompt_ids:
            self._ask("post", "/interrupt", json={"prompt_id": prompt_id})

    def _ask(self, method: str, path: str, **more):
        import requests

        try:
            return requests.request(method, self.address.rstrip("/") + path, timeout=60, **more)
        except requests.RequestException as error:
            raise Blip3oError(
                f"The ComfyUI server at {shown(self.address)} does not answer: {first_line(error)}. Start ComfyUI, or "
                "give its address with --server."
            ) from error

    def _json(self, answer) -> dict:
        try:
            content = answer.json() if answer.status_code in (200, 400) else None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise Blip3oError(
                f"{shown(answer.url)} answered with status {answer.status_code} and nothing that ComfyUI says. Check "
                "--server."
            )
        return content


def _refusal(answer: dict) -> str:
    """The reasons by node, in a sentence."""
    reasons = []
    nodes = answer.get("node_errors")
    for node, facts in (nodes if isinstance(nodes, dict) else {}).items():
        for each in facts.get("errors", ()):
            reasons.append(f"node {node} ({facts.get('class_type')}): {each.get('message')}, {each.get('details')}")
    error: Any = answer.get("error")
    whole = error.get("message") if isinstance(error, dict) else error
    return f"The server refused it: {shown('; '.join(reasons) or whole, 600)}."


def _images(entry: dict) -> list[dict]:
    status = entry.get("status") or {}
    if status.get("status_str") == "error":
        for kind, facts in status.get("messages", ()):
            if kind == "execution_error":
                reason = str(facts.get("exception_message")).strip()
                raise RowFailed(f"{facts.get('node_type')} failed: {shown(reason, 600)}")
        raise RowFailed("It was interrupted on the server.")
    made = [image for output in entry.get("outputs", {}).values() for image in output.get("images", ())]
    saved = [image for image in made if image.get("type") == "output"]
    if not made:
        raise RowFailed("The workflow made no image. Add Save Image to it.")
    return saved or made
