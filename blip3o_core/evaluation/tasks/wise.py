"""WISE: 1,000 prompts that need knowledge of the world; a model that sees images judges one image of each.

WISE_Verified is its newer edition: other prompts, another judge, and a score of 0 or 1. The numbers of the two cannot
be compared. Source: github.com/PKU-YuanGroup/WISE, README.md, calculate_verified.py, WISE_legacy/Calculate.py.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import Blip3oError, shown
from ..interface import Item
from ..items import Entry, find_file, make_items, read_entries
from .options import read_options
from .prompts import PromptTask, Published

# The files' words for the categories, and those of the tables.
_WORDS = {
    "Cultural knowledge": "CULTURE",
    "time": "TIME",
    "Space": "SPACE",
    "Biology": "BIOLOGY",
    "Physical Knowledge": "PHYSICS",
    "Chemistry": "CHEMISTRY",
}
_NAMES = ("cultural_common_sense", "spatio-temporal_reasoning", "natural_science")
_REMEDY = "Clone github.com/PKU-YuanGroup/WISE and give --data its folder, or one of its .json files of prompts."
_COMMIT = "eb51174483a5de2e34e8614cf9dfb3319ee7fcd0"


@dataclass(frozen=True)
class Edition:
    """`files`: of the repository, which belong together. `last`: each category's last id; the next one follows."""

    name: str
    title: str
    files: tuple[str, ...]
    last: Mapping[str, int]
    weights: Mapping[str, float]
    published: Published
    commands: str  # with {images}

    def category(self, id: int) -> str:
        return next((name for name, last in self.last.items() if 1 <= id <= last), "")


VERIFIED = Edition(
    "wise",
    "WISE_Verified",
    tuple(f"data_verified/{name}_verified.json" for name in _NAMES),
    {"CULTURE": 400, "TIME": 520, "SPACE": 640, "BIOLOGY": 760, "PHYSICS": 880, "CHEMISTRY": 1000},
    {"CULTURE": 0.4, "TIME": 0.12, "SPACE": 0.12, "BIOLOGY": 0.12, "PHYSICS": 0.12, "CHEMISTRY": 0.12},
    Published("PKU-YuanGroup/WISE", _COMMIT, 1000, "6ca398ee8b16c6c3"),
    """\
# In a clone of github.com/PKU-YuanGroup/WISE, with Qwen3.5-35B-A3B behind the address:
export IMAGE_DIR={images} VLLM_API_BASE=http://127.0.0.1:8000/v1 VLLM_API_KEY=EMPTY JUDGE_MODEL=Qwen3.5-35B-A3B
bash eval_qwen.sh""",
)

ORIGINAL = Edition(
    "wise-original",
    "the original WISE",
    tuple(f"WISE_legacy/data/{name}.json" for name in _NAMES),
    {"CULTURE": 400, "TIME": 567, "SPACE": 700, "BIOLOGY": 800, "PHYSICS": 900, "CHEMISTRY": 1000},
    {"CULTURE": 0.4, "TIME": 0.167, "SPACE": 0.133, "BIOLOGY": 0.1, "PHYSICS": 0.1, "CHEMISTRY": 0.1},
    Published("PKU-YuanGroup/WISE", _COMMIT, 1000, "f629c87fb2124d11"),
    """\
# In WISE_legacy of a clone of github.com/PKU-YuanGroup/WISE:
export IMAGE_DIR={images}
for NAME in cultural_common_sense spatio-temporal_reasoning natural_science; do
    python gpt_eval.py --json_path data/$NAME.json --image_dir "$IMAGE_DIR" --output_dir "$IMAGE_DIR/Results/$NAME" \\
        --result_full "$IMAGE_DIR/Results/${NAME}_full_results.json" \\
        --result_scores "$IMAGE_DIR/Results/${NAME}_scores_results.jsonl" \\
        --api_key KEY --model gpt-4o-2024-05-13 --max_workers 96
done
python Calculate.py "$IMAGE_DIR"/Results/*_scores_results.jsonl --category all""",
)


@dataclass(frozen=True)
class Wise(PromptTask):
    name: str = VERIFIED.name
    edition: Edition = VERIFIED

    @property
    def published(self) -> Published:
        return self.edition.published

    @property
    def weights(self) -> Mapping[str, float]:
        return self.edition.weights

    def file(self, item: Item, sample: int) -> PurePosixPath:
        """The scorers know one image of each prompt; further ones lie beside it."""
        return PurePosixPath(f"{item.id}.png" if sample == 0 else f"{item.id}-{sample}.png")

    def official(self, images: Path) -> str:
        note = self.published.note(self.items)
        return f"{note}\n{self.edition.commands.replace('{images}', shlex.quote(str(images)))}"


def open_task(data: Path | None, options: Mapping[str, str]) -> Wise:
    """WISE_Verified."""
    return _open(VERIFIED, data, options)


def open_original(data: Path | None, options: Mapping[str, str]) -> Wise:
    return _open(ORIGINAL, data, options)


def _open(edition: Edition, data: Path | None, options: Mapping[str, str]) -> Wise:
    read_options(edition.name, options, {})
    entries = [entry for file in _files(edition, data) for entry in read_entries(file)]
    items = make_items(entries, lambda number, entry: _item(edition, entry))
    return Wise(sorted(items, key=lambda item: int(item.id)), edition.name, edition=edition)


def _files(edition: Edition, data: Path | None) -> Sequence[Path]:
    """All files of an edition in the folder `data`: of the repository, or the one that they lie in."""
    if data is not None and data.is_file():
        return [data]
    return [find_file(data, (name, name.rpartition("/")[2]), _REMEDY) for name in edition.files]


def _item(edition: Edition, entry: Entry) -> Item:
    id, prompt = entry.whole("prompt_id"), entry.text("Prompt")
    said, category = entry.text("Category"), edition.category(id)
    entry.text("Explanation"), entry.text("Subcategory")  # its judge needs them
    if not category:
        raise Blip3oError(f"prompt_id is {id}. It must be from 1 to 1000.")
    if _WORDS.get(said) != category:
        other = ORIGINAL if edition is VERIFIED else VERIFIED
        raise Blip3oError(
            f"Category is {shown(repr(said), 60)}, but prompt {id} of {edition.title} is of {category}. For the "
            f"prompts of {other.title} use the task {other.name}."
        )
    return Item(str(id), prompt, category, facts=entry.values)
