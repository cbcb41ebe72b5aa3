"""The reward `http` over real connections: the numbers of the reward that a server has, or a plain reason."""

import pytest
import torch

from blip3o_core.errors import Blip3oError
from blip3o_core.rewards.interface import Candidates
from blip3o_core.rewards.load import load_rewards
from blip3o_core.rewards.mix import Part, RewardMix
from blip3o_core.rewards.remote import HttpReward
from blip3o_core.rewards.web import BadAnswer, NoAnswer, Refused
from blip3o_core.rewards.wire import Limits
from tests.support.reward_server import Running, Sums, candidates, client, noise, small
from tests.support.stand_in import ENOUGH, StandIn, cut, endless, hangs, says

FACTS = {"protocol": 1, "name": "sums", "version": "3", "range": [None, 100]}


@pytest.fixture
def running():
    with small() as server:
        yield server


def test_the_numbers_are_those_of_the_reward_itself(running):
    """Catches pixels, prompts, references, masks or meta that are changed on their way, or change places."""
    asked = candidates("a", "bb", "none", "é\u2028\0", "", "a red circle")
    remote = client(running.url)
    local = Sums()
    assert (remote.name, remote.version, remote.range) == (local.name, local.version, local.range)
    values = asked.judged_by(remote)
    assert values == asked.judged_by(local) and values[2] is None and len(set(values)) == 6
    # The server takes four images at once, and its client knows.
    assert running.server.part.reward.calls == [4, 2]
    assert asked.judged_by(client(running.url, batch=3)) == values


def test_images_are_sent_in_requests_that_the_server_takes():
    """Catches a group of large images that is refused though each alone would be judged."""
    with Running(Sums(), Limits(images=8, request_bytes=10**6, pixels=250)) as server:
        asked = Candidates([noise(10, 10)] * 5, ["a"] * 5)
        assert asked.judged_by(client(server.url)) == asked.judged_by(Sums())
        assert server.server.part.reward.calls == [2, 2, 1]
        with pytest.raises(Blip3oError, match="Image 1 .* has 256 pixels .* takes 250 pixels"):
            Candidates([noise(16, 16)], ["a"]).judged_by(client(server.url))


def test_an_image_that_cannot_be_judged_costs_only_itself(running):
    """Catches fifteen images without a number because of the sixteenth, and a reason that no log of a run has."""
    mix = RewardMix([Part(client(running.url), elsewhere=True)])
    scores = mix.score(candidates("a", "bad", "nan", "bb", "none"))
    first, *faulty, last, no_text = scores.parts["sums"]
    assert faulty == [None, None] and None not in (first, last) and no_text is None and not scores.failed
    (problem,) = scores.problems
    assert problem.startswith("Reward 'sums' could not judge 2 of 5 images; the first is image 2 with the prompt 'bad'")
    assert running.url in problem and "this one is odd" in problem
    with pytest.raises(Blip3oError, match="could not judge 1 of 1 images.*this one is odd.*on_error: skip"):
        mix.score(candidates("bad"))


def answer(values, **changes):
    return says({**{name: FACTS[name] for name in ("protocol", "name", "version")}, "values": values, **changes})


WRONG = {
    "nan": (answer([float("nan"), 1]), BadAnswer, "nan for image 1"),
    "huge": (answer([10**400, 1]), BadAnswer, "for image 1"),
    "text": (answer([1, "2"]), BadAnswer, "'2' for image 2"),
    "true": (answer([1, True]), BadAnswer, "True for image 2"),
    "few": (answer([1]), BadAnswer, "1 values for 2 images"),
    "none": (answer(None), BadAnswer, "no list 'values' for 2 images"),
    "odd error": (answer([1, {"error": 5}]), BadAnswer, "for image 2"),
    "other version": (answer([1, 2], version="4"), BadAnswer, "version '4'; before.* version '3'"),
    "other protocol": (answer([1, 2], protocol=2), BadAnswer, "protocol 2"),
    "html": (says("<html>"), BadAnswer, "cannot be read as JSON"),
    "endless": (endless, BadAnswer, "more than 1,048,576 bytes"),
    "redirect": (says("", 302, Location="http://elsewhere.example"), Refused, "redirects to http://elsewhere.example"),
    "cut": (cut, NoAnswer, "2 tries"),
    "500": (says("oops", 500), NoAnswer, "status 500: oops .2 tries"),
    "hangs": (hangs, NoAnswer, "did not answer within 0.2 seconds"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_named(name):
    """Catches a run that learns from what a broken server says, or waits for it for ever."""
    step, kind, words = WRONG[name]
    with StandIn(says(FACTS), step) as server:
        remote = client(server.url, timeout=0.2 if step is hangs else ENOUGH)
        with pytest.raises(kind, match=words) as error:
            candidates("a", "b").judged_by(remote)
        assert server.url in str(error.value)


DESCRIPTIONS = [{"range": [1, 0]}, {"range": 5}, {"range": [0, True]}, {"name": 5}, {"version": None}, {"protocol": 2}]
DESCRIPTIONS += [{"limits": {"images": 0}}, {"limits": 5}]


@pytest.mark.parametrize("changes", DESCRIPTIONS, ids=str)
def test_wrong_descriptions_are_named(changes):
    """Catches a run that begins with a server that could never have judged."""
    with StandIn(says({**FACTS, **changes})) as server, pytest.raises(BadAnswer):
        client(server.url)


def test_a_server_that_dies_between_two_calls():
    """Catches a dead server that gives numbers, and one that comes back and is not asked again."""
    good = says({**FACTS, "values": [2]})
    with StandIn(says(FACTS), good, cut, cut, says("", 503, Retry_After=0), good) as server:
        remote = client(server.url)
        assert candidates("a").judged_by(remote) == [2]
        with pytest.raises(NoAnswer):
            candidates("a").judged_by(remote)
        assert candidates("a").judged_by(remote) == [2]


def test_a_run_continues_without_a_server_that_died():
    """Catches a run that ends though it was told to continue, or does not say why numbers are missing."""
    entry = {"name": "far", "use": "http", "weight": 2}
    with StandIn(says(FACTS), says(FACTS), says({**FACTS, "values": [2]}), cut) as server:
        options = {"url": server.url, "wait": 0.0, "retries": 0}
        skips, stops = (
            load_rewards([{**entry, "on_error": what, "options": options}], own_code=True) for what in ("skip", "stop")
        )
        found = skips.score(candidates("a")), skips.score(candidates("a"))
        with pytest.raises(Blip3oError, match="Reward 'far' could not judge.*broke off"):
            stops.score(candidates("a"))
    assert [each.parts for each in found] == [{"far": [2]}, {"far": [None]}]
    assert skips.combine(found[1], 1) == [0] and server.url in found[1].problems[0]


def test_what_json_cannot_say_is_named():
    """Catches NaN that is sent as a word no JSON has."""
    with Running(Sums()) as server:
        for odd in ({"n": float("nan")}, {"n": torch.zeros(1)}):
            with pytest.raises(Blip3oError, match="image 1 cannot be sent as JSON"):
                Candidates([noise()], ["a"], meta=[odd]).judged_by(client(server.url))


def test_options_and_names():
    """Catches a misspelt option that is ignored, and a workflow that sends images to an address of its own."""
    with pytest.raises(Blip3oError, match="Did you mean timeout"):
        HttpReward(url="http://127.0.0.1:1", timout=5)
    with pytest.raises(Blip3oError, match="url is missing"):
        HttpReward()
    for name in ("http", "vlm"):
        with pytest.raises(Blip3oError, match="a workflow could come from anybody"):
            load_rewards([{"name": name, "options": {"url": "http://127.0.0.1:1", "model": "a"}}])
