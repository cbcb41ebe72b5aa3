"""What the benchmarks' own scripts send and find, against what is sent and found here.

They are not part of this project. BLIP3O_TEST_BENCHMARKS names a folder with clones of the repositories, each under its
own name: ImgEdit, Step1X-Edit, WISE. What they would need besides, such as a client of OpenAI, is replaced.
"""

import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blip3o_core.evaluation.interface import Item, Reference
from blip3o_core.evaluation.judges.gedit import GEditOptions, GEditQuestions, GEditQwenOptions, smallest_score
from blip3o_core.evaluation.judges.imgedit import ImgEditOptions, ImgEditQuestions, scores_of
from blip3o_core.evaluation.judges.query import Unusable
from blip3o_core.evaluation.judges.wise import WiseOptions, WiseOriginalOptions, WiseOriginalQuestions, WiseQuestions
from blip3o_core.evaluation.results import over_items
from blip3o_core.evaluation.tasks.find import open_task
from blip3o_core.images.png import save_png
from tests.support.judges import encoded

CLONES = Path(os.environ.get("BLIP3O_TEST_BENCHMARKS", "nowhere"))
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not CLONES.is_dir(), reason="BLIP3O_TEST_BENCHMARKS names no folder with clones"),
]
ASK = {"url": "http://127.0.0.1:1/v1", "model": "m"}
PROMPT = 'Make the "box" <red>, {now} 100 %'


def module(path: str, **stand_ins) -> types.ModuleType:
    """A file of a clone as a module, with other modules in place of some that it imports."""
    made = types.ModuleType(Path(path).stem)
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in stand_ins.items():
            patch.setitem(sys.modules, name, stand_in)
        exec(compile((CLONES / path).read_text(), path, "exec"), made.__dict__)
    return made


@pytest.fixture
def pixels() -> tuple[Image.Image, Image.Image]:
    """An original and an edit of another size."""
    numbers = np.random.default_rng(0)
    return tuple(Image.fromarray(numbers.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((48, 80), (64, 64)))


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).float() / 255


def seen(content) -> list:
    """Texts, and the pixels of images."""
    found = []
    for part in content:
        if part["type"] == "text":
            found.append(part["text"])
            continue
        url = part["image_url"]["url"] if part["type"] == "image_url" else part["image"]
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        found.append((image.format, image.size, image.tobytes()))
    return found


def test_imgedit_sends_what_its_script_sends(tmp_path, pixels):
    """Catches another text, another order or other pixels than those of basic_bench.py, for every kind of edit."""
    before, after = tmp_path / "before.jpg", tmp_path / "after.png"
    pixels[0].save(before)
    save_png(after, tensor(pixels[1]), {})
    sent: list[dict] = []
    client = types.SimpleNamespace(
        chat=types.SimpleNamespace(completions=types.SimpleNamespace(create=lambda **words: sent.append(words)))
    )
    fakes = {name: types.ModuleType(name) for name in ("openai", "tqdm", "tenacity")}
    fakes["openai"].OpenAI = lambda **_: client
    fakes["tqdm"].tqdm = fakes["tenacity"].retry = fakes["tenacity"].wait_exponential = None
    fakes["tenacity"].stop_after_attempt = None
    own = module("ImgEdit/Benchmark/Basic/basic_bench.py", **fakes)
    prompts = own.load_prompts(CLONES / "ImgEdit/Benchmark/Basic/prompts.json")
    questions = ImgEditQuestions(ImgEditOptions(prompts=str(CLONES / "ImgEdit"), **ASK))
    for kind in prompts:
        own.call_gpt(str(before), str(after), PROMPT, kind, prompts)
        item = Item("1", PROMPT, kind, (Reference("", before.read_bytes),))
        (query,) = questions.ask(item, tensor(pixels[1]))
        (message,) = sent.pop()["messages"]
        assert seen(query.to_chat()[0]["content"]) == seen(message["content"])
    assert len(prompts) == 9


def test_imgedit_sums_up_as_its_scripts_do(tmp_path):
    """Catches scores that its scripts read otherwise, and means by kind that are not theirs, on all 737 edits."""
    edits = json.loads((CLONES / "ImgEdit/Benchmark/Basic/basic_edit.json").read_text())
    for edit in edits.values():
        path = tmp_path / edit["id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(9, "JPEG"))
    task = open_task("imgedit", CLONES / "ImgEdit/Benchmark/Basic/basic_edit.json", {"images": str(tmp_path)})
    assert "# The 737 prompts in the file are those of" in task.official(tmp_path)
    numbers = np.random.default_rng(0)
    answers = {
        item.id: "Brief reasoning: it is: fine.\n"
        + "\n".join(f"Name & {n}: {numbers.integers(1, 6)}" for n in range(3))
        for item in task.items
    }
    (tmp_path / "result.json").write_text(json.dumps(answers))
    folder = CLONES / "ImgEdit" / "Benchmark" / "Basic"
    for words in (
        ["step1_get_avgscore.py", "--result_json", "result.json", "--average_score_json", "average.json"],
        ["step2_typescore.py", "--average_score_json", "average.json", "--typescore_json", "kinds.json",
         "--basic_edit", folder / "basic_edit.json"],
    ):  # fmt: skip
        subprocess.run([sys.executable, folder / words[0], *words[1:]], cwd=tmp_path, check=True)
    ours = {item.id: scores_of(answers[item.id])["score"] for item in task.items}
    assert ours == json.loads((tmp_path / "average.json").read_text())
    found = over_items(ours, {item.id: item.category for item in task.items}, task.weights)
    kinds = json.loads((tmp_path / "kinds.json").read_text())
    assert {kind: round(one["mean"], 2) for kind, one in found["categories"].items()} == kinds and len(kinds) == 9
    assert found["overall"]["mean"] == pytest.approx(np.mean(list(kinds.values())), abs=0.005)


@pytest.mark.parametrize("backbone", ["gpt4o", "qwen25vl"])
def test_gedit_sends_what_viescore_sends(tmp_path, pixels, backbone):
    """Catches another text, another order or other pixels than those of test_gedit_score.py and viescore."""
    folder = "Step1X-Edit/GEdit-Bench/viescore"
    original = io.BytesIO()
    pixels[0].save(original, "PNG")
    before = Image.open(io.BytesIO(original.getvalue()))
    after = pixels[1].convert("RGB").resize((before.size[0], before.size[1]))
    asked = types.SimpleNamespace(use_encode=False, get_parsed_output=lambda prompt: sent.append(prompt) or "5")
    sent: list = []
    if backbone == "gpt4o":
        (tmp_path / "key").write_text("key")
        judge = module(f"{folder}/mllm_tools/openai.py").GPT4o(str(tmp_path / "key"), model_name="gpt-4.1")
        judge.get_parsed_output = asked.get_parsed_output
        fakes = {"mllm_tools.openai": types.SimpleNamespace(GPT4o=lambda *_, **__: judge)}
    else:
        names = ("transformers.utils", "qwen_vl_utils", "transformers", "magic", "megfile")
        needs = {name: types.ModuleType(name) for name in names}
        needs["transformers.utils"].is_flash_attn_2_available = needs["qwen_vl_utils"].process_vision_info = None
        for name in ("AutoModel", "AutoTokenizer", "Qwen2_5_VLForConditionalGeneration", "AutoProcessor"):
            setattr(needs["transformers"], name, None)
        needs["magic"].from_buffer = lambda data, mime: "image/png"
        kind = module(f"{folder}/mllm_tools/qwen25vl_eval.py", **needs).Qwen25VL
        judge = kind.__new__(kind)
        judge.get_parsed_output = asked.get_parsed_output
        fakes = {"mllm_tools.qwen25vl_eval": types.SimpleNamespace(Qwen25VL=lambda: judge)}
    fakes |= {"mllm_tools": types.ModuleType("mllm_tools"), "vie_prompts": module(f"{folder}/vie_prompts.py")}
    fakes["utils"] = module(f"{folder}/utils.py", regex=__import__("re"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        for name, fake in fakes.items():
            patch.setitem(sys.modules, name, fake)
        scorer = module(f"{folder}/__init__.py", **fakes).VIEScore(backbone, task="tie", key_path="")
        with contextlib.redirect_stdout(io.StringIO()):
            assert scorer.evaluate([before, after], PROMPT) == [5, 5, 5]
    options = {"gpt4o": GEditOptions, "qwen25vl": GEditQwenOptions}[backbone]
    questions = GEditQuestions(options(prompts=str(CLONES / "Step1X-Edit"), backbone=backbone, **ASK))
    item = Item("1", PROMPT, facts={"Intersection_exist": True}, meta={"source": original.getvalue})
    ours = [query.to_chat()[0]["content"] for query in questions.ask(item, tensor(pixels[1]))]
    theirs = sent if backbone == "gpt4o" else [prompt[0]["content"] for prompt in sent]
    assert list(map(seen, ours)) == list(map(seen, theirs)) and len(ours) == 2


def test_gedit_reads_what_viescore_reads():
    """Catches an answer that both can read and read as different numbers, and a guess."""
    own = module("Step1X-Edit/GEdit-Bench/viescore/utils.py", regex=__import__("re"))
    lists = ["[5, 8]", "[0,10]", "[7]", "4", "[4.5, 9]", "[10, 2, 3]"]
    bodies = [f'{{"score": {one}, "reasoning": "a, [b] c"}}' for one in lists]
    texts = bodies + [f"||V^=^V||\n{one}\n||V^=^V||" for one in bodies] + [f"```json\n{one}\n```" for one in bodies]
    texts += [
        "[6, 0]",
        "I say [6, 10].",
        "7",
        "Sorry.",
        "",
        '{"reasoning": "x"}',
        '{"score": [5, 8',
        "[1, 2] or [3, 4]",
    ]
    read = 0
    for text in texts:
        with contextlib.redirect_stdout(io.StringIO()):
            found = own.mllm_output_to_dict(text)
        if found is False or "score" not in found:
            with pytest.raises(Unusable):
                smallest_score(text)
        else:
            read += 1
            assert smallest_score(text) == min(found["score"])
    assert read == 3 * len(lists) + 3


@pytest.mark.parametrize(
    ("file", "questions", "options"),
    [
        ("vllm_eval.py", WiseQuestions, WiseOptions),
        ("WISE_legacy/gpt_eval.py", WiseOriginalQuestions, WiseOriginalOptions),
    ],
)
def test_wise_sends_and_reads_what_its_script_does(pixels, file, questions, options):
    """Catches other messages than those of build_evaluation_messages, and scores that it reads otherwise."""
    own = module(f"WISE/{file}", openai=types.ModuleType("openai"))
    ours = questions(options(prompts=str(CLONES / "WISE"), **ASK))
    item = Item("1", PROMPT, facts={"Explanation": "It's {clear}."})
    (query,) = ours.ask(item, tensor(pixels[1]))
    messages = query.to_chat()
    image = messages[1]["content"][1]["image_url"]["url"].partition(",")[2]
    assert messages == own.build_evaluation_messages({"Prompt": PROMPT, "Explanation": "It's {clear}."}, image)
    texts = [
        "Score: 1",
        "**Score**: 0",
        "score 1",
        "1",
        "0\n",
        "Score: 2",
        "no",
        "Consistency: 2\nRealism: 1\nAesthetic Quality: 0",
    ]
    texts += ["2\n1\n0", "**Consistency:** 2\n**Realism:** 1\n**Aesthetic Quality:** 1", "Consistency: 1"]
    for text in texts:
        found = own.extract_scores(text)
        if own.REQUIRED_SCORE_KEYS <= set(found):
            read = query.read(text)
            assert {name: read[name] for name in found} == found
        else:
            with pytest.raises(Unusable):
                query.read(text)
