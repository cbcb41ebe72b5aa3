"""Writes `workflows/*.json` through ComfyUI's own frontend: `make workflows`, after a node's widgets have changed.

A graph is written here once, in API format and by column; the frontend turns it into the file a person would save.
"""

import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from blip3o_core.bundled import NAME
from blip3o_core.tiny.evaluation import GUIDANCE, STEPS
from tests.browser.frontend import Frontend, open_frontend
from tests.host.server import Server
from tests.host.workflow import WORKFLOWS, save_workflow

GAP = 60  # between columns and between nodes, in canvas units

# Node sizes are the frontend's own; columns stand side by side, the nodes of a column one under the other.
ARRANGE = """([columns, notes, heights, gap]) => {
    const graph = window.app.graph, place = new Map();
    let left = 0;
    for (const {title, nodes} of columns) {
        const members = nodes.map(id => graph.getNodeById(id));
        const width = Math.max(...members.map(node => node.size[0]), 340);
        let top = 0;
        if (title in notes) {
            const note = window.LiteGraph.createNode("MarkdownNote");
            graph.add(note);
            note.title = title;
            note.widgets[0].value = notes[title].text;
            note.size = [width, notes[title].height];
            members.unshift(note);
        }
        for (const node of members) {
            node.pos = [left, top];
            node.size = [width, heights[node.id] ?? node.size[1]];
            for (const widget of node.widgets ?? [])
                if (widget.name === "control_after_generate") widget.value = "fixed";
            top += node.size[1] + gap;
        }
        const group = new window.LiteGraph.LGraphGroup(title);
        group.pos = [left - 20, -80];
        group.size = [width + 40, top + 60];
        graph.add(group);
        left += width + 40 + gap;
    }
}"""


@dataclass(frozen=True)
class Note:
    text: str
    height: int = 120


@dataclass(frozen=True)
class Sample:
    """A workflow to write: the graph in API format, its columns as {title: node ids}, notes on top of columns.

    `heights` makes room on nodes that will show a picture.
    """

    name: str
    prompt: dict[str, dict]
    columns: dict[str, list[int]]
    notes: dict[str, Note]
    heights: dict[int, int]


TEXT_TO_IMAGE = Sample(
    name="text_to_image",
    prompt={
        "1": {"class_type": "BLIP3oLoader", "inputs": {"checkpoint": NAME, "dtype": "auto"}},
        "2": {
            "class_type": "BLIP3oTokenGenerator",
            "inputs": {
                "lm": ["1", 0], "prompt": "a red circle left of a blue star", "seed": 1,
                "batch_size": 1, "sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95,
                "sampling.temperature": 1.0,
            },
        },
        "3": {"class_type": "BLIP3oHiddenStateConditioner", "inputs": {"lm": ["1", 0], "tokens": ["2", 0]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {
            "class_type": "BLIP3oDiffusionSampler",
            "inputs": {
                "model": ["1", 1], "positive": ["3", 0], "negative": ["3", 1], "latent_image": ["4", 0],
                "noise_seed": 1, "steps": STEPS, "guidance": GUIDANCE, "denoise": 1.0,
            },
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {
            "class_type": "ImageScaleBy",
            "inputs": {"image": ["6", 0], "upscale_method": "bicubic", "scale_by": 8.0},
        },
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "BLIP3o"}},
    },
    columns={
        "Model": [1], "1. Write image tokens": [2], "2. Condition": [3, 4], "3. Render": [5], "Picture": [6, 7, 8],
    },
    notes={
        "Model": Note(
            "The bundled tiny model draws up to four shapes (circle, square, triangle, star, ring, cross) in eight "
            "colours, 64 pixels to the side.\n\n"
            "For photographs put a BLIP3o-NEXT checkpoint folder into `ComfyUI/models/blip3o`, for example "
            "[BLIP3o-NEXT-GRPO-TexT-3B](https://huggingface.co/BLIP3o/BLIP3o-NEXT-GRPO-TexT-3B), and beside it a "
            "folder with `transformer/config.json` and `vae/config.json` of "
            "[SANA1.5](https://huggingface.co/Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers), "
            "which say how the diffusion transformer is built. Choose it here, set 1024 x 1024 and 30 steps, and "
            "bypass Upscale Image By.",
            height=250,
        ),
        "1. Write image tokens": Note(
            "The language model decides **what** is in the picture. Another `seed` gives another picture. "
            "This is the slow part, and it runs again only when something on this node changes."
        ),
        "3. Render": Note(
            "The diffusion transformer decides **how** it looks. Change `noise_seed`, `steps`, `guidance` or the size: "
            "the tokens are not written again. KSampler (euler, simple, 20 steps) fits on the same wires."
        ),
        "Picture": Note("64 pixels are small on a screen: Upscale Image By only makes them larger.", height=80),
    },
    heights={2: 660, 5: 560, 8: 440},
)  # fmt: skip

SAMPLES = [TEXT_TO_IMAGE]


def write(frontend: Frontend, sample: Sample) -> None:
    frontend.load_prompt(sample.prompt, sample.name)
    columns = [{"title": title, "nodes": nodes} for title, nodes in sample.columns.items()]
    notes = {title: {"text": note.text, "height": note.height} for title, note in sample.notes.items()}
    frontend.page.evaluate(ARRANGE, [columns, notes, sample.heights, GAP])
    workflow, prompt = frontend.save()
    if prompt.keys() != sample.prompt.keys():
        raise RuntimeError(f"the frontend dropped nodes of {sample.name}: it kept {prompt}")
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, sample.name))  # not a new one with every writing
    workflow["extra"] = {}  # where the page's window happened to look
    save_workflow(WORKFLOWS / f"{sample.name}.json", workflow)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, Server(Path(scratch)) as server:
        with open_frontend(server.address) as frontend:
            for sample in SAMPLES:
                write(frontend, sample)
                print(f"workflows/{sample.name}.json")


if __name__ == "__main__":
    main()
