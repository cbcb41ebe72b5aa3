"""A tour of what creators do to the graph itself: copy, undo, fold, wire, and look at it in another way.

Elsewhere: opening a sample leaves room for another image (test_workflows.py); ready-made nodes (test_blueprints.py).
"""

import pytest

from tests.browser.tour.steps import (
    CONDITIONER,
    EDIT,
    EMPTY,
    ENCODER,
    FIRST,
    GENERATOR,
    LOADER,
    OTHER,
    SAMPLER,
    everywhere,
    on,
    once,
)  # fmt: skip

pytestmark = pytest.mark.long
SAMPLING = ["sampling.top_k", "sampling.top_p", "sampling.temperature"]
REROUTE = """() => {
    const graph = window.app.graph, node = window.LiteGraph.createNode("Reroute");
    const [generator, conditioner] = ["BLIP3oTokenGenerator", "BLIP3oHiddenStateConditioner"].map(
        type => graph.nodes.find(node => node.type === type));
    const input = conditioner.inputs.findIndex(input => input.name === "tokens");
    graph.add(node);
    generator.connect(0, node, 0);
    node.connect(0, conditioner, input);
    const model = graph.nodes.find(node => node.type === "BLIP3oDiffusionSampler").inputs[0];
    graph.createReroute([900, 700], graph.links.get(model.link));
}"""
KINDS = "() => window.app.graph.nodes.map(node => node.type).sort()"


@once
def test_copy_paste_undo_redo_and_collapse(tour):
    """Catches nodes that lose widgets or wires in a copy, and undo that leaves half of it."""
    tour.open()
    kinds = tour.page.evaluate(KINDS)
    tour.page.mouse.click(700, 850)
    tour.keys("Control+a", "Control+c", "Control+v")
    tour.settle()
    assert tour.page.evaluate(KINDS) == sorted(kinds * 2)
    number = "number => window.app.graph.nodes.length === number"
    for keys, expected in [("Control+z", len(kinds)), ("Control+y", 2 * len(kinds))]:
        tour.keys(keys)
        tour.page.wait_for_function(number, arg=expected)
    run = tour.run()
    assert run.ended == "execution_success"
    *_, prompt = tour.frontend.save()
    copies = [node["inputs"] for node in prompt.values() if node["class_type"] == GENERATOR]
    assert {**copies[0], "lm": 0} == {**copies[1], "lm": 0} and copies[0]["lm"] != copies[1]["lm"]
    tour.open()
    tour.page.mouse.click(700, 850)
    tour.keys("Control+a", "Alt+c")
    assert all(tour.page.evaluate("() => window.app.graph.nodes.map(node => !!node.flags.collapsed)"))
    tour.set(SAMPLER, noise_seed=12)
    assert tour.run().ended == "execution_success"
    tour.shot("collapsed")


@once
def test_reroutes(tour):
    """Catches a wire of ours that ComfyUI's two kinds of reroute do not take."""
    tour.open()
    _, prompt = tour.frontend.save()
    tour.page.evaluate(REROUTE)
    assert tour.frontend.save()[1] == prompt and tour.run().ended == "execution_success"
    tour.shot("reroutes")


@on(FIRST, OTHER)
def test_a_subgraph_made_by_hand(tour):
    """Catches nodes that do not run, or say nothing, inside a subgraph."""
    tour.client.free()
    tour.open()
    tour.set(GENERATOR, prompt="a photo of a red circle", seed=31)
    tour.page.evaluate(
        """types => {
            const canvas = window.app.canvas;
            canvas.deselectAll();
            for (const node of window.app.graph.nodes) if (types.includes(node.type)) canvas.select(node);
        }""",
        [GENERATOR, CONDITIONER, EMPTY, SAMPLER],
    )
    tour.command("Comfy.Graph.ConvertToSubgraph")
    tour.page.wait_for_function("() => window.app.graph.nodes.some(node => node.subgraph)")
    run = tour.run()
    assert run.ended == "execution_success" and {GENERATOR, SAMPLER} <= run.ran
    tour.shot("subgraph")
    tour.page.evaluate(
        "() => window.app.canvas.openSubgraph(window.app.graph.nodes.find(node => node.subgraph).subgraph)"
    )
    tour.settle()
    inner = "() => window.app.canvas.graph.nodes.flatMap(node => node.widgets ?? [])"
    texts = tour.page.evaluate(inner + ".filter(w => w.name === 'blip3o_notes').map(w => w.element.innerText)")
    tour.shot("subgraph-inside")
    tour.page.evaluate("() => window.app.canvas.setGraph(window.app.rootGraph)")
    assert any("It does not know: photo." in text for text in texts)


@on(FIRST, OTHER)
def test_only_wires_that_fit_can_be_connected(tour):
    """Catches a VAE that goes into a socket for models, and a right wire that does not hold."""
    tour.open()
    tour.drag((LOADER, "vae"), (SAMPLER, "model"))
    tour.drag((LOADER, "image_tokenizer"), (CONDITIONER, "lm"))
    assert tour.inputs(SAMPLER)["model"] == tour.inputs(CONDITIONER)["lm"] == LOADER
    tour.page.evaluate("""() => {
        const node = window.app.graph.nodes.find(node => node.type === "BLIP3oDiffusionSampler");
        for (const k of [0, 1]) node.disconnectInput(k);
    }""")
    tour.settle()
    tour.drag((LOADER, "vae"), (SAMPLER, "model"))
    assert tour.inputs(SAMPLER)["model"] is None
    tour.drag((LOADER, "model"), (SAMPLER, "model"))
    tour.drag((CONDITIONER, "positive"), (SAMPLER, "positive"))
    assert tour.inputs(SAMPLER)["model"] == LOADER and tour.inputs(SAMPLER)["positive"] == CONDITIONER


@on(FIRST, OTHER)
def test_sockets_for_images_grow_and_close_up(tour):
    """Catches an encoder without a socket for the next image, and one that keeps a gap when an image is pulled out."""
    tour.open(EDIT)

    def sockets() -> list[bool]:
        tour.settle()
        named = tour.inputs(ENCODER).items()
        return [kind is not None for name, kind in named if name.startswith("images.")]

    def connect(k: int) -> None:
        tour.page.evaluate(
            """name => {
                const graph = window.app.graph, node = window.LiteGraph.createNode("EmptyImage");
                const encoder = graph.nodes.find(node => node.type === "BLIP3oEditReferenceEncoder");
                graph.add(node);
                node.connect(0, encoder, encoder.inputs.findIndex(input => input.name === name));
            }""",
            f"images.image_{k}",
        )

    assert sockets() == [True, False]
    connect(2)
    assert sockets() == [True, True, False]
    connect(3)
    assert sockets() == [True, True, True, False]
    tour.shot("sockets")
    tour.page.evaluate("""() => {
        const node = window.app.graph.nodes.find(node => node.type === "BLIP3oEditReferenceEncoder");
        node.disconnectInput(node.inputs.findIndex(input => input.name === "images.image_1"));
    }""")
    assert sockets() == [True, True, False]


@everywhere
def test_greedy_hides_what_it_does_not_use(tour):
    """Catches widgets that do nothing, and ones that are gone for good."""
    tour.open()
    names = "() => window.app.graph.nodes.find(n => n.type === 'BLIP3oTokenGenerator').widgets.map(w => w.name)"
    assert set(SAMPLING) <= set(tour.page.evaluate(names))
    tour.set(GENERATOR, sampling="greedy")
    tour.settle()
    assert not set(SAMPLING) & set(tour.page.evaluate(names))
    tour.shot("greedy")
    assert tour.run().ended == "execution_success"
    tour.set(GENERATOR, sampling="sample")
    tour.settle()
    assert set(SAMPLING) <= set(tour.page.evaluate(names))


@everywhere
def test_the_light_theme(tour):
    """Catches notes in light letters on a light ground."""
    theme = "name => window.app.extensionManager.setting.set('Comfy.ColorPalette', name)"
    tour.open()
    tour.set(GENERATOR, prompt="a photo of a cat")
    try:
        tour.page.evaluate(theme, "light")
        assert tour.run().ended == "execution_success"
        notes = tour.notes()
        tour.shot("light")
    finally:
        tour.page.evaluate(theme, "dark")
    assert "photo, cat" in notes[GENERATOR]


@on(FIRST, OTHER)
def test_a_small_window(tour):
    """Catches a page that fails, or notes that leave their node, in the window of a small laptop."""
    tour.page.set_viewport_size({"width": 1280, "height": 720})
    tour.open()
    tour.set(GENERATOR, prompt="a photo of a cat")
    assert tour.run().ended == "execution_success"
    tour.page.evaluate(
        "() => { window.app.canvas.ds.changeScale(1, [400, 300]); window.app.canvas.setDirty(true, true) }"
    )
    assert "photo, cat" in tour.notes()[GENERATOR]
    tour.shot("small-window")
