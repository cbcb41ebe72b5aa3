"""The canvas of Re-sample Tokens: brushed with the mouse, undone, run, saved and found again, in both renderers."""

import pytest

from blip3o_core.checkpoint.bundled import NAME
from tests.support.undo import changed_nodes, hold
from tools.comfyui.frontend import TWO_FRAMES, Frontend
from tools.comfyui.graphs import SIDE, node, text_to_image

GRID = 8
RENDERERS = [pytest.param(False, id="classic"), pytest.param(True, id="Nodes 2.0", marks=pytest.mark.long)]
FIND = """() => {
    const node = window.app.graph._nodes.find(node => node.type === "BLIP3oResampleTokens");
    const widget = name => node.widgets.find(widget => widget.name === name);
    const element = widget("canvas").element, stage = element.querySelector("canvas").getBoundingClientRect();
    const shown = window.app.nodeOutputs[node.id]?.blip3o_tokens?.[0];
    return {
        marks: widget("marks").value, status: element.querySelector("[role=status]").textContent, codes: shown?.codes,
        stage: [stage.left, stage.top, stage.width, stage.height],
    };
}"""
LOOK_AT = """scale => {
    const canvas = window.app.canvas, node = window.app.graph._nodes.find(one => one.type === "BLIP3oResampleTokens");
    canvas.ds.scale = scale;
    canvas.ds.offset[0] = 300 / scale - node.pos[0];
    canvas.ds.offset[1] = 100 / scale - node.pos[1];
    canvas.setDirty(true, true);
}"""
USE = "on => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
PIXEL = """([x, y]) => {
    const node = window.app.graph._nodes.find(node => node.type === "BLIP3oResampleTokens");
    const canvas = node.widgets.find(widget => widget.name === "canvas").element.querySelector("canvas");
    const {width, height} = canvas.getBoundingClientRect();
    const [left, top] = [x * canvas.width / width, y * canvas.height / height];
    return [...canvas.getContext("2d").getImageData(left, top, 1, 1).data];
}"""


def graph(marks: str = "") -> dict:
    made = text_to_image(NAME, prompt="a red circle left of a blue star", size=(SIDE, SIDE), steps=2)
    made["again"] = node(
        "BLIP3oResampleTokens", lm=["load", 0], tokens=["generate", 0], marks=marks, seed=40,
        **{"sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95, "sampling.temperature": 1.0},
    )  # fmt: skip
    made["condition"]["inputs"]["tokens"] = ["again", 0]
    del made["latents"]
    return made


HANG = """() => {
    const node = window.LiteGraph.createNode("SaveImage");
    window.app.graph.add(node);
    window.app.canvas.startGhostPlacement(node);
}"""
HANGS = "() => window.app.canvas.state.ghostNodeId !== null"


class Canvas:
    """The token canvas in a page, as a hand uses it."""

    def __init__(self, frontend: Frontend, scale: float = 1.0):
        self.page = frontend.page
        self.zoom(scale)

    def zoom(self, scale: float) -> None:
        self.page.evaluate(LOOK_AT, scale)
        self.settle()

    def settle(self) -> None:
        for _ in range(3):  # the page moves the element, which then has its size
            self.page.evaluate(TWO_FRAMES)

    def see(self, what: str):
        self.settle()
        return self.page.evaluate(FIND)[what]

    def place(self, row: float, column: float, on_stage: bool = False) -> tuple[float, float]:
        left, top, width, height = self.see("stage")
        cell = min(width, height) / GRID
        x, y = (width - GRID * cell) / 2 + (column + 0.5) * cell, (height - GRID * cell) / 2 + (row + 0.5) * cell
        return (x, y) if on_stage else (left + x, top + y)

    def drag(self, *cells: tuple[int, int], button: str = "left") -> None:
        self.page.mouse.move(*self.place(*cells[0]))
        self.page.mouse.down(button=button)
        for cell in cells[1:]:
            self.page.mouse.move(*self.place(*cell))
        self.page.mouse.up(button=button)

    def press(self, name: str) -> None:
        self.page.locator(".blip3o-canvas").get_by_role("button", name=name, exact=True).click()

    def colour(self, row: float, column: float) -> list[int]:
        self.settle()
        return self.page.evaluate(PIXEL, list(self.place(row, column, on_stage=True)))


@pytest.fixture
def renderer(frontend):
    yield lambda vue: frontend.page.evaluate(USE, vue)
    frontend.page.evaluate(USE, False)


@pytest.mark.slow
@pytest.mark.parametrize("vue", RENDERERS)
def test_cells_are_brushed_undone_run_saved_and_found_again(frontend, server, renderer, vue):
    """Catches a brush beside the cell, a step that is not undone, marks that Run or the saved file does not have."""
    renderer(vue)
    frontend.load_prompt(graph())
    canvas = Canvas(frontend)
    assert "Press Run" in canvas.see("status")
    assert frontend.run()[0] == "execution_success"
    before = canvas.see("codes")[0]
    assert canvas.see("status") == "0 / 64 marked"

    canvas.press("Brush size 1")
    canvas.drag((1, 1), (1, 4), (3, 4))  # two jumps: no cell between them is skipped
    assert canvas.see("marks") == "8x8: 9-12, 20, 28"
    assert canvas.see("status") == f"row 3 · column 4 · token 28 · code {before[28]}"
    canvas.drag((1, 2), (1, 3), button="right")
    assert canvas.see("marks") == "8x8: 9, 12, 20, 28"
    canvas.press("Undo")
    canvas.press("Undo")
    assert canvas.see("marks") == ""
    canvas.press("Redo")
    assert canvas.see("marks") == "8x8: 9-12, 20, 28"
    canvas.press("Invert the marks")
    assert canvas.see("marks") == "8x8: 0-8, 13-19, 21-27, 29-63"
    canvas.press("Clear the marks")
    assert canvas.see("marks") == ""

    canvas.zoom(0.7)
    canvas.press("Brush size 3")
    plain = canvas.colour(6, 6)
    canvas.drag((6, 6))
    assert canvas.see("marks") == "8x8: 45-47, 53-55, 61-63"
    frontend.page.mouse.move(5, 5)
    assert canvas.colour(6, 6) != plain
    hold(frontend.page, "Control", "z")  # ComfyUI's own undo
    assert canvas.see("marks") == "" and changed_nodes(frontend.page) == []
    hold(frontend.page, "Control", "y")
    assert canvas.see("marks") == "8x8: 45-47, 53-55, 61-63"

    _, prompt = frontend.save()
    [node_id] = [id for id, part in prompt.items() if part["class_type"] == "BLIP3oResampleTokens"]
    assert prompt[node_id]["inputs"]["marks"] == "8x8: 45-47, 53-55, 61-63"
    assert "canvas" not in prompt[node_id]["inputs"]
    assert frontend.run()[0] == "execution_success"
    after = canvas.see("codes")[0]
    marked = [cell for cell in range(64) if cell // 8 >= 5 and cell % 8 >= 5]
    assert [after[cell] for cell in range(64) if cell not in marked] == [
        before[cell] for cell in range(64) if cell not in marked
    ]

    workflow, _ = frontend.save()
    other = frontend.page.context.browser.new_page()
    try:
        again = Frontend(other, f"http://{server.address}")
        again.load(workflow)
        found = Canvas(again)
        assert found.see("marks") == "8x8: 45-47, 53-55, 61-63" and found.see("status") == "9 / 64 marked"
        assert found.colour(6, 6) != found.colour(2, 2)
        assert again.save()[1][node_id]["inputs"]["marks"] == "8x8: 45-47, 53-55, 61-63"
    finally:
        other.close()


@pytest.mark.long
@pytest.mark.parametrize("vue", [False, True], ids=["classic", "Nodes 2.0"])
def test_the_keyboard_marks_and_foreign_marks_are_told(frontend, renderer, vue):
    """Catches a canvas that only a mouse can use, and marks of a different grid that are brushed over unseen."""
    renderer(vue)
    frontend.load_prompt(graph())
    assert frontend.run()[0] == "execution_success"
    canvas, page = Canvas(frontend), frontend.page
    canvas.press("Brush size 1")
    page.locator(".blip3o-canvas canvas").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Space", "ArrowRight", "Space", "Space"):
        page.keyboard.press(key)
    assert canvas.see("marks") == "8x8: 9" and "row 1 · column 2 · token 10" in canvas.see("status")
    page.evaluate("""() => {
        const node = window.app.graph._nodes.find(node => node.type === "BLIP3oResampleTokens");
        const widget = node.widgets.find(widget => widget.name === "marks");
        widget.value = "27x27: 3";
        widget.callback(widget.value);
    }""")
    assert "do not fit the grid" in canvas.see("status")
    canvas.drag((3, 3), (4, 4))
    assert canvas.see("marks") == "27x27: 3"
    ended, _ = frontend.run()
    assert ended == "execution_error" and "grid of 27x27" in " ".join(frontend.toasts())
    canvas.press("Clear the marks")
    assert canvas.see("marks") == ""


def test_a_click_puts_a_new_node_down(frontend, renderer):
    """Catches a click that brushes while a new node hangs on the pointer: the node would hang on, and the one below be
    dragged along by every later stroke. Catches a page that keeps such a node for the next test, too."""
    renderer(False)
    frontend.load_prompt(graph("8x8: 3"))
    canvas, page = Canvas(frontend), frontend.page
    page.evaluate(HANG)
    assert page.evaluate(HANGS)
    page.mouse.move(*canvas.place(4, 4))
    page.mouse.down()
    page.mouse.up()
    assert not page.evaluate(HANGS) and canvas.see("marks") == "8x8: 3"
    assert [each["type"] for each in frontend.save()[0]["nodes"]].count("SaveImage") == 2
    page.evaluate(HANG)
    frontend.reset()
    assert not page.evaluate(HANGS)
