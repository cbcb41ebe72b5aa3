"""`make workflows`: writes `workflows/*.json` through ComfyUI's own frontend, after a node's widgets have changed.

The graphs are in `samples.py`; the frontend turns each into the file a person would save.
"""

import tempfile
import uuid
from pathlib import Path

from tools.comfyui.frontend import Frontend, open_frontend
from tools.comfyui.server import Server
from tools.comfyui.workflow import WORKFLOWS, save_workflow
from tools.samples import SAMPLES, Sample

GAP = 60  # between columns and between nodes, in canvas units

# Node sizes are the frontend's own. Columns stand side by side, and so do the stacks of a column, under its note.
ARRANGE = """([columns, notes, heights, gap]) => {
    const graph = window.app.graph;
    let left = 0;
    for (const {title, stacks} of columns) {
        const members = stacks.map(stack => stack.map(id => graph.getNodeById(id)));
        const widths = members.map(stack => Math.max(...stack.map(node => node.size[0]), 340));
        const width = widths.reduce((sum, one) => sum + one + gap, -gap);
        let start = 0;
        if (title in notes) {
            const note = window.LiteGraph.createNode("MarkdownNote");
            graph.add(note);
            note.title = title;
            note.widgets[0].value = notes[title].text;
            note.pos = [left, 0];
            note.size = [width, notes[title].height];
            start = note.size[1] + gap;
        }
        let bottom = start, x = left;
        for (const [k, stack] of members.entries()) {
            let top = start;
            for (const node of stack) {
                node.pos = [x, top];
                node.size = [widths[k], heights[node.id] ?? node.size[1]];
                for (const widget of node.widgets ?? [])
                    if (widget.name === "control_after_generate") widget.value = "fixed";
                top += node.size[1] + gap;
            }
            bottom = Math.max(bottom, top);
            x += widths[k] + gap;
        }
        const group = new window.LiteGraph.LGraphGroup(title);
        group.pos = [left - 20, -80];
        group.size = [width + 40, bottom + 60];
        graph.add(group);
        left += width + 40 + gap;
    }
}"""


def made(frontend: Frontend, sample: Sample) -> dict:
    """The UI-format workflow of a sample, arranged; it stays open in the page."""
    frontend.load_prompt(sample.prompt, sample.name)
    columns = [{"title": title, "stacks": stacks} for title, stacks in sample.columns.items()]
    notes = {title: {"text": note.text, "height": note.height} for title, note in sample.notes.items()}
    frontend.page.evaluate(ARRANGE, [columns, notes, sample.heights, GAP])
    workflow, prompt = frontend.save()
    if prompt.keys() != sample.prompt.keys():
        raise RuntimeError(f"the frontend dropped nodes of {sample.name}: it kept {prompt}")
    for id, node in sample.prompt.items():
        kept = prompt[id]["inputs"]
        # A link that the frontend has no socket for disappears without a word.
        if lost := {name: value for name, value in node["inputs"].items() if kept.get(name) != value}:
            raise RuntimeError(f"the frontend changed {lost} on node {id} of {sample.name}: it has {kept}")
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, sample.name))  # not a new one with every writing
    workflow["extra"] = {}  # where the page's window happened to look
    return workflow


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server:
        for sample in SAMPLES:
            # A page each: widgets that a sample leaves out would keep the values of the one before.
            with open_frontend(server.address) as frontend:
                save_workflow(WORKFLOWS / f"{sample.name}.json", made(frontend, sample))
                print(f"workflows/{sample.name}.json")


if __name__ == "__main__":
    main()
