"""Drafts to choose from: everything waits for the choice, and then only the chosen one is finished."""

import pytest

from blip3o_core.tokens.file import load_tokens, save_tokens
from tools.comfyui.graphs import close, equal, latents, node, text_to_image

pytestmark = [pytest.mark.usefixtures("checkpoint")]
DRAFTS = 4
FINISH = {"choose", "one", "finish", "render", "result", "kept", "final"}


def drafts(choice: int = 0, **changes) -> dict:
    """DRAFTS quick renders, and behind the choice a large one with more steps."""
    graph = text_to_image(size=(64, 64), batch=DRAFTS, steps=2, **changes)
    del graph["latents"], graph["save"]
    return graph | {
        "choose": node("BLIP3oChooseDraft", tokens=["generate", 0], images=["decode", 0], choice=choice),
        "large": node("EmptyLatentImage", width=128, height=128, batch_size=DRAFTS),
        "one": node("LatentFromBatch", samples=["large", 0], batch_index=["choose", 2], length=1),
        "finish": node("BLIP3oHiddenStateConditioner", lm=["load", 0], tokens=["choose", 0]),
        "render": node(
            "BLIP3oDiffusionSampler", model=["load", 1], positive=["finish", 0], negative=["finish", 1],
            latent_image=["one", 0], noise_seed=11, steps=4, guidance=2.0, denoise=1.0,
        ),
        "result": node("VAEDecode", samples=["render", 0], vae=["load", 2]),
        "final": node("SaveImage", images=["result", 0], filename_prefix="final"),
        "kept": node("SaveLatent", samples=["render", 0], filename_prefix="latents/final"),
    }  # fmt: skip


def test_without_a_choice_everything_waits(client):
    """Catches an error, or a finished image of a draft that nobody chose."""
    result = client.run(drafts())
    assert result.status == "success" and not result.error
    assert not {"final", "kept"} & result.outputs.keys()
    shown = result.outputs["choose"]
    assert shown["blip3o_choice"] == [0] and "Click a draft" in shown["blip3o_notes"][0]
    assert len({client.view(**place) for place in shown["blip3o_drafts"]}) == DRAFTS


def test_a_choice_finishes_that_draft_alone_and_writes_no_token(client, server):
    """Catches drafts that are made again, the image of another draft, and one that differs from finishing it alone."""
    keep = {"keep": node("BLIP3oSaveTokens", tokens=["generate", 0], filename_prefix="tokens/drafts")}
    place = client.run(drafts() | keep).outputs["keep"]["tokens"][0]
    written = []

    def note(kind, data):
        if kind == "progress_state":
            written.extend(id for id, state in data["nodes"].items() if state["state"] == "running")

    result = client.run(drafts(3), on_event=note)
    assert result.status == "success", result.error
    assert set(result.executed) == FINISH and "generate" in result.cached
    assert "generate" not in written, "tokens were decoded again"
    assert result.outputs["choose"]["blip3o_choice"] == [3]
    finished = latents(server, result, "kept")
    drafted = load_tokens(server.base / "output/tokens" / place["filename"])
    save_tokens(server.base / "input/third.tokens.safetensors", drafted.row(2))
    alone = text_to_image(size=(128, 128), noise_seed=11 + 2, steps=4)
    from_file = alone | {"generate": node("BLIP3oLoadTokens", file="third.tokens.safetensors")}
    assert equal(latents(server, client.run(from_file)), finished)
    alone["generate"]["inputs"]["seed"] = 5 + 2
    assert close(latents(server, client.run(alone)), finished)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"choice": 5}, "choice is 5, but there are 4 drafts. Choose 1 to 4, or 0 to wait."),
        ({"images": ["one image", 0]}, "There are 4 drafts in tokens and 1 images"),
        ({"scores": ["number", 0]}, "There are 1 scores for 4 drafts"),
    ],
)
def test_what_does_not_fit_is_told(client, changes, sentence):
    """Catches a draft that is taken for another one, and an index error."""
    graph = drafts()
    graph["one image"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    graph["number"] = node("PrimitiveFloat", value=1.0)
    graph["choose"]["inputs"] |= changes
    error = client.run(graph).error
    assert error["node_id"] == "choose" and sentence in error["exception_message"]


def test_the_best_score_is_taken_where_nothing_is_chosen(in_host):
    """Catches scores that are read as one score for each run, in one of the forms that nodes give lists in."""

    def look(module):
        import torch

        image_tokens, vocabulary = module(".blip3o_core.tokens.image_tokens"), module(".blip3o_core.prompts.vocabulary")
        codes = torch.arange(12).view(3, 4)
        tokens = image_tokens.ImageTokens(
            codes, (2, 2), ["a"] * 3, None, [0, 1, 2], [4] * 3, vocabulary.CodesId(num_codes=12)
        )
        images = torch.rand(3, 8, 8, 3)
        node = module(".nodes.draft").ChooseDraft
        found = []
        for scores in ([0.1, 0.9, 0.5], [[0.1, 0.9, 0.5]], [torch.tensor([0.1, 0.9, 0.5])]):
            for choice in (0, 3):
                output = node.execute(tokens=[tokens], images=[images], choice=[choice], scores=scores)
                found.append([output[0].codes.tolist(), output[2], bool(torch.equal(output[1][0], images[output[2]]))])
        try:
            node.execute(tokens=[tokens], images=[images], choice=[0], scores=[0.1, float("nan"), 0.5])
        except ValueError as error:
            found.append(str(error))
        return found

    *found, refused = in_host(look)
    assert found == [[[[4, 5, 6, 7]], 1, True], [[[8, 9, 10, 11]], 2, True]] * 3
    assert refused.startswith("scores is the number nan")
