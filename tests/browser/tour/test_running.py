"""A tour of what creators do with the samples: what runs anew, what nodes say of it, what comes back.

Elsewhere: every sample opens, draws and shows its previews (test_workflows.py), a missing checkpoint is one sentence
(test_nodes.py), the search of nodes (test_blueprints.py), API prompts and their errors (tests/host).
"""

import io

import pytest
from PIL import Image

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from tests.browser.tour.steps import (
    BYPASSED,
    CONDITIONER,
    EDIT,
    EMPTY,
    ENCODER,
    GENERATOR,
    MUTED,
    SAMPLER,
    everywhere,
    once,
)  # fmt: skip
from tests.support.pictures import noise
from tools.samples.parts import ENLARGE, SIDE

pytestmark = pytest.mark.slow
END = {"VAEDecode", "ImageScaleBy", "SaveImage"}
DRAWN = {SAMPLER} | END
CHANGES = {
    "prompt": (GENERATOR, {"prompt": "a green ring above a red cross"}, {GENERATOR, CONDITIONER} | DRAWN),
    "noise seed": (SAMPLER, {"noise_seed": 71}, DRAWN),
    "steps": (SAMPLER, {"steps": 5}, DRAWN),
    "guidance": (SAMPLER, {"guidance": 1.5}, DRAWN),
    "size": (EMPTY, {"width": SIDE * 3 // 2}, DRAWN | {EMPTY}),
    "nothing": (SAMPLER, {}, set()),
}


@everywhere
def test_notes_can_be_read_and_go_away(tour):
    """Catches notes of which two lines show, that leave their node or lie under another, and ones that stay."""
    tour.open()
    tour.set(GENERATOR, prompt="a photo of a cat riding a horse")
    tour.set(EMPTY, width=4 * SIDE, height=4 * SIDE, batch_size=2)
    tour.set(SAMPLER, steps=1)
    assert tour.run().ended == "execution_success"
    notes = tour.notes()
    tour.shot("notes")
    assert "It does not know: photo, cat, riding, horse." in notes[GENERATOR]
    assert "nearly equal" in notes[SAMPLER] and f"trained at {SIDE}x{SIDE} pixels" in notes[SAMPLER]
    tour.open()  # anew: now from the cache
    tour.set(GENERATOR, prompt="a photo of a cat riding a horse")
    tour.set(SAMPLER, steps=1)
    assert GENERATOR not in tour.run().ran
    notes = tour.notes()
    assert "riding, horse" in notes[GENERATOR] and SAMPLER not in notes
    tour.set(GENERATOR, prompt="a red circle")
    assert tour.run().ended == "execution_success" and GENERATOR not in tour.notes()
    tour.shot("progress")
    assert "Tokens 64/64, " in tour.texts()


@pytest.mark.long
@once
def test_only_what_a_change_concerns_runs(tour):
    """Catches tokens that are written again, and a loader that loads again, for a change that does not concern them."""
    tour.open()
    tour.run()
    for change, (kind, widgets, expected) in CHANGES.items():
        tour.set(kind, **widgets)
        run = tour.run()
        assert run.ended == "execution_success" and run.ran == expected, change


@once
def test_a_saved_image_brings_its_workflow_back(tour):
    """Catches an image without its workflow, or with one that the page or the API reads differently."""
    tour.open()
    tour.set(GENERATOR, seed=5)
    assert tour.run().ended == "execution_success"
    [image], (workflow, prompt) = tour.images(), tour.frontend.save()
    tour.open(EDIT)
    tour.drop("saved.png", image)
    again, same = tour.frontend.save()
    assert same == prompt and len(again["groups"]) == len(workflow["groups"])
    assert tour.client.run(prompt).executed == [], "the exported prompt is another one than the page runs"
    tour.shot("dropped")


@once
@pytest.mark.long
def test_a_batch_of_the_generator_is_different_images(tour):
    """Catches a batch whose images are the same, or of which the page shows one."""
    tour.open()
    tour.set(GENERATOR, batch_size=4)
    assert tour.run().ended == "execution_success"
    assert len(set(tour.images())) == 4 and SAMPLER not in tour.notes()
    tour.shot("batch")


@once
@pytest.mark.long
def test_a_width_between_two_cells(tour):
    """Catches an error, or an image of another size than the one that ComfyUI makes of this width."""
    tour.open()
    tour.set(EMPTY, width=100)
    assert tour.run().ended == "execution_success"
    [width] = [node["inputs"]["width"] for node in tour.frontend.save()[1].values() if node["class_type"] == EMPTY]
    assert width % 8 == 0
    made, height = Image.open(io.BytesIO(tour.images()[0])).size
    cell = open_checkpoint(BUNDLED).latent_multiple
    assert made % (cell * ENLARGE) == 0 and abs(made / ENLARGE - width) < cell and height == SIDE * ENLARGE


@once
@pytest.mark.long
@pytest.mark.parametrize("mode", [BYPASSED, MUTED])
@pytest.mark.parametrize("kind", ["ImageScaleBy", GENERATOR, CONDITIONER, SAMPLER])
def test_a_node_is_switched_off(tour, kind, mode):
    """Catches torch's words, or silence, where a node that is needed is bypassed or muted."""
    tour.open()
    tour.mode(kind, mode)
    run = tour.run()
    tour.shot(f"off-{mode}-{kind}")
    if kind == "ImageScaleBy" and mode == BYPASSED:
        assert run.ended == "execution_success"
        assert Image.open(io.BytesIO(tour.images()[0])).size == (SIDE, SIDE)
    elif (kind, mode) == (SAMPLER, BYPASSED):
        assert run.ended == "execution_error" and "check that the sampler is not bypassed" in run.told
    else:
        assert run.ended == "refused" and run.told.count("\n") < 6


@once
@pytest.mark.long
@pytest.mark.parametrize("kind, much", [(GENERATOR, {"batch_size": 64}), (SAMPLER, {"steps": 1000})])
def test_an_interrupt_and_the_run_after_it(tour, kind, much):
    """Catches a run that goes on after Cancel, and what is left of it in the next."""
    tour.open()
    assert tour.run().ended == "execution_success"
    expected = tour.images()
    before = {"batch_size": 1} if kind == GENERATOR else {"steps": 20}
    tour.set(kind, **much)
    tour.set(GENERATOR, seed=88)
    tour.start()
    tour.wait_for("b_preview_with_metadata", kind)
    tour.command("Comfy.Interrupt")
    assert tour.follow() == "execution_interrupted"
    tour.set(kind, **before)
    tour.set(GENERATOR, seed=1)
    tour.client.free()
    assert tour.run().ended == "execution_success" and pixels(tour.images()) == pixels(expected)


@once
@pytest.mark.long
@pytest.mark.parametrize("prompt, word", [("", "prompt"), ("a red circle, " * 400, "tokens")])
def test_prompts_that_cannot_be_written(tour, prompt, word):
    """Catches "failed" without the reason where the user looks."""
    tour.open()
    tour.set(GENERATOR, prompt=prompt)
    run = tour.run()
    tour.shot(f"prompt-{len(prompt)}")
    assert run.ended == "execution_error" and word in run.told and "Traceback" not in run.told


@everywhere
@pytest.mark.long
def test_a_photograph_of_the_users_own(tour):
    """Catches a photograph that the bundled model repaints without a word."""
    data = io.BytesIO()
    noise(64, 64).save(data, "PNG")
    name = tour.client.upload("own.png", data.getvalue())
    tour.open(EDIT)
    tour.page.evaluate(
        """name => {
            const graph = window.app.graph, node = window.LiteGraph.createNode("LoadImage");
            const encoder = graph.nodes.find(node => node.type === "BLIP3oEditReferenceEncoder");
            graph.add(node);
            node.pos = [0, 900];
            node.widgets[0].value = name;
            node.connect(0, encoder, encoder.inputs.findIndex(input => input.name === "images.image_1"));
        }""",
        name,
    )
    tour.settle()
    assert tour.inputs(ENCODER)["images.image_1"] == "LoadImage" and tour.run().ended == "execution_success"
    notes = tour.notes()
    tour.shot("photograph")
    assert "looks like a photograph" in notes[ENCODER]


@everywhere
@pytest.mark.long
def test_half_a_reference(tour):
    """Catches an edit whose reference reaches one of its two nodes, without a word on the other."""
    tour.open(EDIT)
    tour.page.evaluate("""() => {
        const node = window.app.graph.nodes.find(node => node.type === "BLIP3oHiddenStateConditioner");
        node.disconnectInput(node.inputs.findIndex(input => input.name === "reference"));
    }""")
    assert tour.run().ended == "execution_success"
    notes = tour.notes()
    tour.shot("half-a-reference")
    assert "not to this node" in notes[CONDITIONER]


def pixels(images: list[bytes]) -> list[bytes]:
    return [Image.open(io.BytesIO(image)).convert("RGB").tobytes() for image in images]
