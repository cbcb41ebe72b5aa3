"""A reward server in a thread of the tests, and images that depend on everything a request can hold."""

import json
import threading

import requests
import torch

from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.mix import Part
from blip3o_core.rewards.remote import HttpReward
from blip3o_core.rewards.server import RewardServer
from blip3o_core.rewards.wire import PATH, Limits

from .stand_in import ENOUGH


class Sums:
    """Depends on every pixel and word that a reward gets. The prompt "bad" cannot be judged, "none" is not for it."""

    name, version, range = "sums", "3", (-float("inf"), 100.0)

    def __init__(self):
        self.calls, self.gate, self.inside = [], threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, images, prompts, references, masks, meta):
        self.calls.append(len(images))
        self.inside.set()
        self.gate.wait(ENOUGH)
        return [self.value(*row) for row in zip(images, prompts, references, masks, meta, strict=True)]

    def value(self, image, prompt, references, mask, meta):
        if prompt == "none":
            return None
        if prompt == "bad":
            raise ValueError("this one is odd")
        if prompt == "nan":
            return float("nan")
        ramp = torch.arange(image.numel(), dtype=torch.float64).view(image.shape)
        total = (image.double() * ramp).sum() + 3 * sum(each.double().sum() for each in references)
        total += 0 if mask is None else 7 * mask.double().sum()
        return -float(total) - len(prompt) - meta.get("n", 0)


class Running:
    """A reward server in a thread."""

    def __init__(self, reward, limits=Limits()):
        self.server = RewardServer(Part(reward, timeout=ENOUGH), ("127.0.0.1", 0), limits)
        self.url = self.server.url
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def post(self, content, **headers) -> requests.Response:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json", **headers}
        return requests.post(self.url + PATH, data=data, headers=headers, timeout=ENOUGH)


def small() -> Running:
    return Running(Sums(), Limits(images=4, request_bytes=20_000, pixels=4_000))


def noise(height=6, width=5, channels=3):
    return (torch.rand(height, width, channels) * 255).round() / 255


def candidates(*prompts) -> Candidates:
    """Images of several sizes, with and without references and masks, of 8 bits as saved images are."""
    count = len(prompts)
    return Candidates(
        [noise(4 + place, 9 - place) for place in range(count)],
        prompts,
        [[noise(), noise(3, 8)][: place % 3] for place in range(count)],
        [noise(channels=1)[..., 0] if place % 2 else None for place in range(count)],
        [{"n": place, "text": "é\u2028", "list": [1, None]} for place in range(count)],
    )


def client(url, **more) -> HttpReward:
    return HttpReward(url=url, **{"retries": 1, "wait": 0.0, "timeout": ENOUGH, **more})
