"""Images are scored in a graph, and the best go on."""

import io

import numpy as np
import pytest
from PIL import Image

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.scenes.caption_reader import read_caption
from tools.comfyui.graphs import SIDE, node, text_to_image

PROMPT = "a small red circle left of a small blue star"
COUNT = 4


def scored(**changes) -> dict:
    """COUNT images of PROMPT by the bundled model, their scores, the best one, and the drafts that it is chosen of."""
    graph = text_to_image(NAME, (SIDE, SIDE), COUNT, prompt=PROMPT, seed=3, steps=8)
    del graph["latents"], graph["save"]
    graph |= {
        "score": node(
            "BLIP3oScoreImages", images=["decode", 0], tokens=["generate", 0], prompt="", reward="tiny", weight=1.0
        ),
        "pick": node("BLIP3oPickBest", images=["decode", 0], scores=["score", 0], count=1),
        "best": node("SaveImage", images=["pick", 0], filename_prefix="best"),
        "every": node("SaveImage", images=["decode", 0], filename_prefix="every"),
        "info": node("PreviewAny", source=["score", 1]),
        "index": node("PreviewAny", source=["pick", 2]),
        "choose": node(
            "BLIP3oChooseDraft", tokens=["generate", 0], images=["decode", 0], choice=0, scores=["score", 0]
        ),
        "chosen": node("SaveImage", images=["choose", 1], filename_prefix="chosen"),
    }
    for id, inputs in changes.items():
        graph[id]["inputs"] |= inputs
    return graph


def opened(client, result, id: str) -> list[np.ndarray]:
    places = result.outputs[id]["images"]
    return [np.asarray(Image.open(io.BytesIO(client.view(**place))).convert("RGB")) for place in places]


def test_the_image_with_the_highest_score_goes_on(client):
    """Catches scores in another order than the images, a worse image that goes on, and a score that is not shown."""
    result = client.run(scored())
    assert result.status == "success", result.error
    every = opened(client, result, "every")
    credit = [judge_image(image, read_caption(PROMPT)).credit for image in every]
    [index] = map(int, result.outputs["index"]["text"])
    assert credit[index] == max(credit) and index == credit.index(max(credit))
    [best], [chosen] = opened(client, result, "best"), opened(client, result, "chosen")
    assert np.array_equal(best, every[index]) and np.array_equal(chosen, every[index])
    assert len(result.outputs["choose"]["blip3o_scores"]) == COUNT
    [text] = result.outputs["info"]["text"]
    assert (
        text.startswith(f"Best: image {index + 1} of {COUNT}. Scores: ")
        and text == result.outputs["score"]["blip3o_notes"][0]
    )


@pytest.mark.parametrize(
    ("changes", "where", "sentence"),
    [
        ({"score": {"prompt": "a white cat"}}, "pick", "No image has a score, so none is the best."),
        ({"score": {"reward": "os:system"}}, "score", "Cannot find the reward 'os:system' in "),
        ({"score": {"reward": "../secret.yaml"}}, "score", "Cannot find the reward '../secret.yaml' in "),
        ({"pick": {"images": ["one image", 0]}}, "pick", "There are 4 scores for 1 images."),
        ({"pick": {"count": 5}}, "pick", "count is 5, but there are 4 images to choose from. Choose 1 to 4."),
        ({"pick": {"group": 3}}, "pick", "group is 3, but 4 images cannot be split into groups of 3."),
        ({"score": {"scores": ["number", 0]}}, "score", "There are 1 scores for 4 images."),
    ],
)
def test_what_does_not_fit_is_told(client, changes, where, sentence):
    """Catches an image that is taken for the best without a score, and a workflow that reads a file elsewhere."""
    graph = scored(**changes)
    del graph["choose"], graph["chosen"]
    graph["one image"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    graph["number"] = node("PrimitiveFloat", value=1.0)
    error = client.run(graph).error
    assert error["node_id"] == where and sentence in error["exception_message"]


def test_a_file_of_the_user_is_a_reward_and_runs_no_code(client, server):
    """Catches a settings file that is not offered, and one that may name code although a workflow chose it."""
    folder = server.base / "models/blip3o_rewards"
    folder.mkdir(exist_ok=True)
    (folder / "both.yaml").write_text("rewards:\n- {name: tiny, weight: 2}\n")
    (folder / "code.yaml").write_text("rewards:\n- {name: mine, use: 'os:getcwd'}\n")
    [offered, _] = client.object_info()["BLIP3oScoreImages"]["input"]["required"]["reward"]
    assert {"both.yaml", "code.yaml"} <= {*(offered if isinstance(offered, list) else _["options"])}
    result = client.run(scored(score={"reward": "both.yaml"}))
    assert result.status == "success" and max(result.outputs["choose"]["blip3o_scores"]) > 1
    error = client.run(scored(score={"reward": "code.yaml"})).error
    assert "uses own code" in error["exception_message"]


def test_scores_add_up_and_images_without_one_lose(in_host):
    """Catches sums over different images, an image without a score that wins, and lists that are paired wrongly."""

    def look(module):
        import torch

        scores, nodes = module(".nodes.host.scores"), module(".nodes.scores")
        added = [
            scores._added(*lists) for lists in (([1.0, None], [2.0, 3.0]), ([None, None], [1.0, None]), (None, [1.0]))
        ]
        red, blue = torch.zeros(2, 64, 64, 3), torch.zeros(1, 32, 32, 3)
        red[..., 0], blue[..., 2] = 1, 1
        several = nodes.PickBest.execute(images=[red, red], scores=[None, 1.0, 1.0, None], count=[1], group=[2])
        found = scores.candidates_of([red, blue], ["a", "b"], None, [blue, red], None)
        best = nodes.PickBest.execute(images=[red, blue], scores=[0.5, None, 0.9], count=[1], group=[0])
        try:
            nodes.PickBest.execute(images=[red, blue], scores=[0.5, None, 0.9], count=[2], group=[0])
        except ValueError as error:
            sizes = str(error)
        return [
            added, several[2], several[1], list(several[0].shape), found.prompts,
            [len(each) for each in found.references], best[2], list(best[0].shape), sizes,
        ]  # fmt: skip

    *found, sizes = in_host(look)
    assert found == [
        [[3.0, None], [1.0, None], [1.0]], [1, 2], [1.0, 1.0], [2, 64, 64, 3], ["a", "a", "b"], [1, 1, 2], [2],
        [1, 32, 32, 3],
    ]  # fmt: skip
    assert sizes.startswith("The best 2 images have different sizes (32x32, 64x64)")


def test_the_note_says_why_an_image_has_no_score(in_host):
    """Catches a note that blames the prompt where the reward failed."""

    def look(module):
        import torch

        scores, mix = module(".nodes.host.scores"), module(".blip3o_core.rewards.mix")

        class Odd:
            name, version, range = "odd", "1", (0.0, 1.0)

            def __call__(self, images, *_):
                return [0.5, OSError("too dark"), None]

        scores.read_rewards = lambda words: mix.RewardMix([mix.Part(Odd())])
        return scores.score(scores.candidates_of([torch.zeros(3, 8, 8, 3)], ["a"], None, None, None), "tiny", 1.0, None)

    found, info = in_host(look)
    assert found == [0.5, None, None]
    assert info.splitlines()[1:] == [
        "Reward 'odd' could not judge 1 of 3 images; image 2 with the prompt 'a': OSError: too dark",
        "The reward 'tiny' has no score for image 2, 3.",
    ]


def test_a_cancel_is_heard_while_a_reward_works(in_host):
    """Catches a queue that stands still until hundreds of images have been read for words."""

    def look(module):
        import threading

        import comfy.model_management
        import torch

        scores, mix = module(".nodes.host.scores"), module(".blip3o_core.rewards.mix")
        free = threading.Event()

        class Slow:
            name, version, range = "slow", "1", (0.0, 1.0)

            def __call__(self, images, *_):
                comfy.model_management.interrupt_current_processing()
                free.wait(60)
                return [0.5] * len(images)

        scores.read_rewards = lambda words: mix.RewardMix([mix.Part(Slow())])
        try:
            scores.score(scores.candidates_of([torch.zeros(1, 8, 8, 3)], [""], None, None, None), "tiny", 1.0, None)
        except comfy.model_management.InterruptProcessingException:
            return free.is_set()
        finally:
            free.set()

    assert in_host(look) is False
