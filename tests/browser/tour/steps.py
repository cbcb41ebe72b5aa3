"""What a creator does on the page, in small steps, and what there is to see afterwards."""

import base64
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.undo import hold
from tools.comfyui.client import Client
from tools.comfyui.frontend import ENDS, TWO_FRAMES, Frontend
from tools.comfyui.workflow import load_workflow

START, EDIT = "BLIP3o-1-Text-to-Image", "BLIP3o-3-Image-Edit"
GENERATOR, CONDITIONER, SAMPLER = "BLIP3oTokenGenerator", "BLIP3oHiddenStateConditioner", "BLIP3oDiffusionSampler"
ENCODER, LOADER, EMPTY = "BLIP3oEditReferenceEncoder", "BLIP3oLoader", "EmptyLatentImage"
ACTIVE, MUTED, BYPASSED = 0, 2, 4  # modes of a node

LOOKS = {
    f"{renderer}-{language}": {"Comfy.VueNodes.Enabled": renderer == "nodes2", "Comfy.Locale": language}
    for renderer in ("classic", "nodes2")
    for language in ("en", "zh")
}
FIRST, OTHER = "classic-en", "nodes2-zh"  # differ in both

SET = """([type, values]) => {
    const node = window.app.graph.nodes.find(node => node.type === type);
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find(widget => widget.name === name);
        widget.value = value;
        widget.callback?.(value);
    }
}"""
MODE = """([type, mode]) => {
    const canvas = window.app.canvas, node = window.app.graph.nodes.find(node => node.type === type);
    node.mode = mode;
    canvas.setDirty(true, true);
}"""
# Of each text under a node: whether every line of it is inside its node, uncovered and large enough to read.
READ = """() => {
    const canvas = window.app.canvas, scale = canvas.ds.scale, page = canvas.canvas.getBoundingClientRect();
    const light = colour => { const [r, g, b] = colour.match(/[0-9.]+/g).map(Number); return r * .3 + g * .6 + b * .1 };
    const found = {};
    for (const node of window.app.graph.nodes) {
        const element = node.widgets?.find(widget => widget.name === "blip3o_notes")?.element;
        if (!element) continue;
        const text = element.firstChild;
        const box = text.getBoundingClientRect(), style = getComputedStyle(text);
        const [x, y] = canvas.ds.convertOffsetToCanvas(node.pos), faults = [];
        const right = page.x + x + node.size[0] * scale, bottom = page.y + y + node.size[1] * scale;
        const outer = element.getBoundingClientRect();
        if (box.width < 50 || box.height < 10) faults.push("not on the page");
        const inside = box.left >= page.x + x - 1 && box.right <= right + 1 && box.bottom <= bottom + 2;
        if (!inside) faults.push("outside its node");
        if (box.height > outer.height + 1) faults.push("cut off");
        if (parseFloat(style.fontSize) * scale < 6.5) faults.push("too small");
        const paper = light(getComputedStyle(document.body).backgroundColor);
        if (Math.abs(light(style.color) - paper) < 90) faults.push("as dark as what is behind it");
        for (const share of [0.1, 0.5, 0.9]) {
            const seen = document.elementFromPoint(box.left + box.width / 2, box.top + box.height * share);
            if (box.bottom < innerHeight && !element.contains(seen)) faults.push("covered");
        }
        found[node.type] = {text: text.innerText, faults};
    }
    return found;
}"""
DROP = """([name, data]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type: "image/png"}));
    const canvas = document.querySelector("#graph-canvas");
    const where = {bubbles: true, cancelable: true, clientX: 700, clientY: 850, dataTransfer: transfer};
    canvas.dispatchEvent(new DragEvent("drop", where));
}"""
SLOT = """([type, isInput, name]) => {
    const canvas = window.app.canvas, node = window.app.graph.nodes.find(node => node.type === type);
    const slots = isInput ? node.inputs : node.outputs, index = slots.findIndex(slot => slot.name === name);
    const [x, y] = canvas.ds.convertOffsetToCanvas(isInput ? node.getInputPos(index) : node.getOutputPos(index));
    const page = canvas.canvas.getBoundingClientRect();
    return [page.x + x, page.y + y];
}"""


def on(*looks: str):
    """The row on these looks; on all but the last of several only where long tests run."""
    long = [pytest.param(look, marks=() if look == looks[-1] else pytest.mark.long) for look in looks]
    return pytest.mark.parametrize("look", long, indirect=True, scope="module")


everywhere, once = on(*sorted(LOOKS, key=OTHER.__eq__)), on(FIRST)


@dataclass
class Run:
    ended: str  # of ENDS, or "refused": it was not queued
    ran: set[str]  # types of nodes; the others came from the cache
    told: str = ""  # in notifications


@dataclass
class Tour:
    frontend: Frontend
    client: Client
    folder: Path
    look: str

    @property
    def page(self):
        return self.frontend.page

    def open(self, name: str = START) -> None:
        self.frontend.load(load_workflow(name), template=True)
        self.settle()

    def settle(self) -> None:
        """Until the page has laid out what was changed; Nodes 2.0 takes a frame for each of several stages."""
        for _ in range(4):
            self.page.evaluate(TWO_FRAMES)

    def set(self, kind: str, **widgets) -> None:
        self.page.evaluate(SET, [kind, widgets])

    def mode(self, kind: str, mode: int) -> None:
        self.page.evaluate(MODE, [kind, mode])

    def command(self, name: str) -> None:
        self.page.evaluate("name => window.app.extensionManager.command.execute(name)", name)

    def keys(self, *keys: str) -> None:
        """Pressed over the empty canvas, one after the other."""
        for key in keys:
            hold(self.page, *key.split("+"))

    def start(self) -> None:
        self.page.evaluate("() => { window.__events = [] }")
        self.page.evaluate("() => window.app.queuePrompt(0, 1)")

    def wait_for(self, kind: str, node: str | None = None) -> None:
        """An event of the page; of `node`, a type, where one is named."""
        script = """([kind, type]) => window.__events.some(([name, data]) => name === kind
            && (!type || window.app.graph.getNodeById(data.node ?? data)?.type === type))"""
        self.page.wait_for_function(script, arg=[kind, node], timeout=60_000)

    def run(self) -> Run:
        kinds = {id: node["class_type"] for id, node in self.frontend.save()[1].items()}
        self.page.evaluate("() => { window.app.extensionManager.toast.removeAll() }")
        try:
            ended, events = self.frontend.run()
        except RuntimeError as refused:
            return Run("refused", set(), str(refused))
        if ended != ENDS[0]:
            self.page.wait_for_function("() => document.querySelector('.p-toast-message')")
        self.settle()
        ran = {kinds[data] for kind, data in events if kind == "executing" and data in kinds}
        return Run(ended, ran, " ".join(self.frontend.toasts()))

    def follow(self) -> str:
        """The end of a run that was started."""
        ends = "ends => window.__events.find(event => ends.includes(event[0]))?.[0]"
        return self.page.wait_for_function(ends, arg=ENDS, timeout=60_000).json_value()

    def notes(self) -> dict[str, str]:
        """What stands on nodes, by type; all of it can be read."""
        self.settle()
        found = self.page.evaluate(READ)
        faults = {kind: one["faults"] for kind, one in found.items() if one["faults"]}
        assert not faults, f"notes that cannot be read: {faults}"
        return {kind: one["text"] for kind, one in found.items()}

    def texts(self) -> str:
        """What widgets show that are elements of the page."""
        return self.page.evaluate("""() => [...document.querySelectorAll(".dom-widget, .lg-node-widget")].map(element =>
            element.innerText + [...element.querySelectorAll("textarea")].map(area => area.value)).join()""")

    def images(self) -> list[bytes]:
        """What SaveImage nodes show."""
        saved = self.page.evaluate(
            "() => window.app.graph.nodes.filter(node => node.type === 'SaveImage')"
            ".flatMap(node => window.app.nodeOutputs[node.id]?.images ?? [])"
        )
        return [self.client.view(one["filename"], one["subfolder"], one["type"]) for one in saved]

    def drop(self, name: str, data: bytes) -> None:
        """A PNG file onto the canvas, until its workflow is open."""
        before = self.page.evaluate("() => window.app.graph.id")
        opened = "before => window.app.graph.nodes.length && window.app.graph.id !== before"
        self.page.evaluate(DROP, [name, base64.b64encode(data).decode()])
        self.page.wait_for_function(opened, arg=before)
        self.settle()

    def drag(self, start: tuple[str, str], end: tuple[str, str]) -> None:
        """A wire from an output to an input, both as (type, name)."""
        self.page.mouse.move(*self.page.evaluate(SLOT, [start[0], False, start[1]]))
        self.page.mouse.down()
        self.page.mouse.move(*self.page.evaluate(SLOT, [end[0], True, end[1]]), steps=8)
        self.page.mouse.up()
        self.settle()

    def inputs(self, kind: str) -> dict[str, str | None]:
        """Sockets of a node by name, with the type of what is connected."""
        script = """type => Object.fromEntries(window.app.graph.nodes.find(node => node.type === type).inputs.map(
            (input, k, all) => [input.name, input.link == null ? null :
                window.app.graph.getNodeById(window.app.graph.links.get(input.link).origin_id)?.type ?? "?"]))"""
        return self.page.evaluate(script, kind)

    def shot(self, name: str) -> None:
        self.settle()
        self.page.wait_for_timeout(400)  # what glides and fades
        self.page.screenshot(path=self.folder / f"{name}-{self.look}.png", animations="disabled")
