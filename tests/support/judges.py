"""Prompt files in the three forms that benchmarks keep them in, and items to judge. The words are ours."""

import io
import json
from pathlib import Path

import torch
from PIL import Image

from blip3o_core.evaluation.interface import Item, Reference
from blip3o_core.rewards.interface import Candidates

IMGEDIT = {
    "add": "Grade the addition.\nediting instruction is : <edit_prompt>.\n",
    "style": "Grade the style: <edit_prompt>",
}
VIE = '''# made by a script
_context_no_delimit = """You grade images.
Answer as {"score" : [...]}"""

_context = "another one"
_prompts_0shot_two_image_edit_rule = """RULES:
Two images."""
_prompts_0shot_tie_rule_SC = """From 0 to 10.
Editing instruction: <instruction>
"""
_prompts_0shot_rule_PQ = """RULES: one image."""
'''
WISE = '''import os

KEYS = {"score"}
os._exit(1)  # whoever runs this file ends here


def build_evaluation_messages(prompt_data: dict, image_base64: str) -> list:
    return [
        {"role": "system", "content": [{"type": "text", "text": "You audit images."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": f"""Grade {{this}}.
PROMPT: "{prompt_data['Prompt']}"
EXPLANATION: "{prompt_data['Explanation']}"
Return `Score: 0` or `Score: 1`."""},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image_base64}"}},
            ],
        },
    ]
'''


def write_prompts(folder: Path) -> Path:
    """A folder with the prompts of all benchmarks."""
    (folder / "WISE_legacy").mkdir(parents=True)
    (folder / "prompts.json").write_text(json.dumps(IMGEDIT))
    (folder / "vie_prompts.py").write_text(VIE)
    (folder / "vllm_eval.py").write_text(WISE)
    (folder / "WISE_legacy" / "gpt_eval.py").write_text(WISE)
    return folder


def encoded(shade: int, form: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, form)
    return file.getvalue()


def edit(name: str, prompt: str = "Add a tree.", category: str = "add", shade: int = 0) -> Item:
    """An item that ImgEdit's judge, GEdit's and WISE's can be asked about."""
    source = encoded(shade, "JPEG")
    facts = {"Intersection_exist": True, "Explanation": "It is a tree."}
    return Item(name, prompt, category, (Reference(name, lambda: source),), facts, {"source": lambda: source})


def asked(*shades: float, **changes) -> tuple[list[Item], Candidates]:
    """Items, each with an image of one shade, in [0, 1]."""
    items = [edit(str(number), **changes) for number in range(len(shades))]
    images = [torch.full((8, 8, 3), shade) for shade in shades]
    return items, Candidates(images, [item.prompt for item in items])
