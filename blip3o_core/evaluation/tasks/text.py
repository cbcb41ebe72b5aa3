"""Text rendering: own prompts with quotes, the prompts of flow_grpo's OCR reward, and LongText-Bench.

Images are read by rapidocr here. flow_grpo's rule is followed, with another reader than its PaddleOCR. LongText-Bench
reads with a model that sees images: its number comes from its own commands alone.
Source: github.com/yifan123/flow_grpo, dataset/ocr and flow_grpo/ocr.py; github.com/X-Omni-Team/X-Omni, textbench.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...errors import Blip3oError, shown
from ...rewards.text import TextReward
from ..interface import Item, Scorer
from ..items import Entry, find_file, make_items, read_entries
from . import quotes, reading
from .options import read_options, refuse_data, whole, yes_or_no
from .prompts import PromptTask, Published
from .reading import ReadingScorer, Rule

COUNT = 100  # prompts of our own set: twenty of each kind
_OCR = {"ocr": yes_or_no}
FLOW_GRPO = Published("yifan123/flow_grpo", "ac4c86e8cae021841f1fde853d340e0db67690dd", 1018, "efa33e71831aa105")
LONG_TEXT = {
    "en": Published("X-Omni-Team/X-Omni", "2b8237bb3789638c290eeda3e83ed81bd3652c3b", 160, "a46c6fc89c966a0a"),
    "zh": Published("X-Omni-Team/X-Omni", "2b8237bb3789638c290eeda3e83ed81bd3652c3b", 160, "acb000f0d18e9dc9"),
}
_LONG_TEXT_FILES = {"en": "text_prompts.jsonl", "zh": "text_prompts_zh.jsonl"}


@dataclass(frozen=True)
class TextTask(PromptTask):
    """`rules`: the measures of what is read in an image; none where nothing is to be read here."""

    name: str = "text"
    rules: Mapping[str, Rule] = field(default_factory=dict)

    @property
    def notes(self) -> Sequence[str]:
        """What keeps the numbers of what is read here from being those of the benchmark."""
        return ()

    def scorers(self) -> Sequence[Scorer]:
        return [ReadingScorer(self.rules, TextReward(), notes=self.notes)] if self.rules else []


@dataclass(frozen=True)
class FlowGRPO(TextTask):
    name: str = "flow-grpo-ocr"

    @property
    def published(self) -> Published:
        return FLOW_GRPO

    @property
    def notes(self) -> Sequence[str]:
        return ("read by rapidocr, not comparable with numbers of flow_grpo, which PaddleOCR reads",)

    def official(self, images: Path) -> str:
        return f"""{self.published.note(self.items)}
# flow_grpo has no command for a folder of images. Its scorer is the class OcrScorer in flow_grpo/ocr.py, which reads
# with PaddleOCR; the measure flow_grpo here has the same rule and reads with rapidocr."""


@dataclass(frozen=True)
class LongText(TextTask):
    name: str = "longtext"
    language: str = "en"
    samples: int = 4

    @property
    def published(self) -> Published:
        return LONG_TEXT[self.language]

    @property
    def notes(self) -> Sequence[str]:
        return ("read by rapidocr, not comparable with published LongText-Bench numbers, which Qwen2.5-VL-7B reads",)

    def file(self, item: Item, sample: int) -> PurePosixPath:
        return PurePosixPath(f"{item.id}_{sample + 1}.png")

    def official(self, images: Path) -> str:
        return f"""{self.published.note(self.items)}
# In textbench of a clone of github.com/X-Omni-Team/X-Omni, on 8 GPUs:
torchrun --nnodes=1 --node-rank=0 --nproc_per_node=8 evaluate_text_reward.py --mode {self.language} \\
    --sample_dir {shlex.quote(str(images))} --output_dir eval_results
cat eval_results/results_chunk*.jsonl > eval_results/results.jsonl
python3 summary_scores.py eval_results/results.jsonl --mode {self.language}"""


def open_task(data: Path | None, options: Mapping[str, str]) -> TextTask:
    """Our own prompts. Options: `count`, and `ocr`: no makes the images alone."""
    refuse_data("text", data)
    known = {"count": whole(len(quotes.KINDS), 10_000), **_OCR}
    given = {"count": COUNT, "ocr": True, **read_options("text", options, known)}
    items = [
        Item(f"{number:05d}", prompt.text, prompt.kind, facts={reading.TEXTS: prompt.asked})
        for number, prompt in enumerate(quotes.prompts(given["count"]))
    ]
    return TextTask(items, rules={"spans": reading.spans, "right": reading.right} if given["ocr"] else {})


def open_flow_grpo(data: Path | None, options: Mapping[str, str]) -> FlowGRPO:
    """Option: `ocr`."""
    given = {"ocr": True, **read_options("flow-grpo-ocr", options, _OCR)}
    remedy = "Clone github.com/yifan123/flow_grpo and give --data its folder, or its dataset/ocr/test.txt."
    items = make_items(read_entries(find_file(data, ("dataset/ocr/test.txt", "test.txt"), remedy)), _flow_grpo_item)
    return FlowGRPO(items, rules={"flow_grpo": reading.flow_grpo, "spans": reading.spans} if given["ocr"] else {})


def open_long_text(data: Path | None, options: Mapping[str, str]) -> LongText:
    """English. Option: `ocr`."""
    return _open_long_text("longtext", "en", data, options)


def open_long_text_zh(data: Path | None, options: Mapping[str, str]) -> LongText:
    return _open_long_text("longtext-zh", "zh", data, options)


def _open_long_text(name: str, language: str, data: Path | None, options: Mapping[str, str]) -> LongText:
    given = {"ocr": True, **read_options(name, options, _OCR)}
    file = _LONG_TEXT_FILES[language]
    remedy = f"Clone github.com/X-Omni-Team/X-Omni and give --data its folder, or its textbench/{file}."
    entries = read_entries(find_file(data, (f"textbench/{file}", file), remedy))
    items = make_items(entries, lambda number, entry: _long_text_item(language, entry))
    rules: dict[str, Rule] = {"words": reading.words, "spans": reading.spans} if given["ocr"] else {}
    return LongText(items, name, rules=rules, language=language)


def _flow_grpo_item(number: int, entry: Entry) -> Item:
    prompt = entry.text("prompt")
    asked = prompt.split('"')[1:2]
    if prompt.count('"') < 2 or not asked[0].strip():
        raise Blip3oError(f'{shown(repr(prompt), 60)} has no text between straight quotation marks ("...").')
    count = len(asked[0].split())
    return Item(f"{number:05d}", prompt, "1 word" if count == 1 else f"{count} words")


def _long_text_item(language: str, entry: Entry) -> Item:
    id, prompt, category, texts = (
        entry.whole("prompt_id"),
        entry.text("prompt"),
        entry.text("category"),
        entry.texts("text"),
    )
    if not 0 <= id <= 9999:
        raise Blip3oError(f"prompt_id is {id}. It must be from 0 to 9999.")
    if reading.is_chinese(texts) != (language == "zh"):
        other = "longtext" if language == "zh" else "longtext-zh"
        raise Blip3oError(f"its text is {shown(repr(texts[0]), 60)}, which is for the task {other}.")
    return Item(f"{id:04d}", prompt, category, facts=entry.values)
