"""The benchmarks' own scorers on our folders, as far as they run without their networks.

They are not part of this project. BLIP3O_TEST_BENCHMARKS names a folder with clones of the repositories, each under its
own name: geneval, ELLA, WISE, X-Omni. What looks at images is replaced: a detector, a model that answers, a judge
behind an address. All that finds files, assigns them to prompts, cuts and sums up is the benchmarks' own.
"""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip3o_core.evaluation import layout
from blip3o_core.evaluation.interface import Task
from blip3o_core.evaluation.plan import rows_of
from blip3o_core.evaluation.run_folder import RunFolder
from blip3o_core.evaluation.tasks.find import open_task
from blip3o_core.evaluation.tasks.reading import share_of_words
from blip3o_core.rewards.text import TextReward
from tests.support.written import written

CLONES = os.environ.get("BLIP3O_TEST_BENCHMARKS")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not CLONES, reason="BLIP3O_TEST_BENCHMARKS names no folder with the benchmarks' repositories"),
]
SIDE = 8

# The detector finds nothing, and an image is right where its first pixel is bright.
GENEVAL = """
import sys, types, argparse
import numpy, torch
for name in ("mmdet", "mmdet.apis", "open_clip", "clip_benchmark", "clip_benchmark.metrics",
             "clip_benchmark.metrics.zeroshot_classification"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["mmdet.apis"].init_detector = None
sys.modules["mmdet.apis"].inference_detector = lambda detector, file: [numpy.zeros((0, 5))]
sys.modules["clip_benchmark.metrics"].zeroshot_classification = types.ModuleType("zeroshot_classification")
torch.cuda.is_available = lambda: True
sys.path.insert(0, "evaluation")
import evaluate_images as own
own.evaluate = lambda image, objects, metadata: (image.getpixel((0, 0))[0] > 127, "")
own.object_detector, own.classnames = None, ["fox"]
own.THRESHOLD, own.COUNTING_THRESHOLD, own.MAX_OBJECTS, own.NMS_THRESHOLD = 0.3, 0.9, 16, 1.0
own.main(argparse.Namespace(imagedir=sys.argv[1], outfile=sys.argv[2]))
"""

# In place of modelscope: "Is it above 100?" is answered by the mean of what was cut.
MODELSCOPE = """
import numpy
def pipeline(task, model, device):
    def answer(question):
        limit = float(question["question"].split("above ")[1].rstrip("?"))
        return {"text": "yes" if numpy.asarray(question["image"]).mean() > limit else "no"}
    return answer
class Tasks:
    visual_question_answering = "vqa"
"""


def run(folder: str, *words, **variables: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    done = subprocess.run(
        list(map(str, words)), cwd=Path(CLONES, folder), env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout[-2000:])
    return done.stdout


def filled(task: Task, out: Path, level) -> RunFolder:
    """A run's folder with a flat image for each item and sample, of the brightness `level(item, sample)`."""
    folder, rows = RunFolder(out), rows_of(task, task.items, task.samples)
    for row in rows:
        path = folder.image(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (level(row.item, row.sample),) * 3).save(path)
    assert layout.write(folder, task, rows)
    return folder


def test_geneval_finds_every_image_and_its_mean_is_ours(tmp_path):
    """Catches images or metadata that its walk over the folder misses, and weights that are not its own."""
    task = open_task("geneval", Path(CLONES, "geneval"))
    right = {(item.id, k): (int(item.id) * 7 + k * 3) % 5 < 2 for item in task.items for k in range(4)}
    folder = filled(task, tmp_path / "run", lambda item, k: 255 if right[item.id, k] else 0)
    results = tmp_path / "results.jsonl"
    run("geneval", sys.executable, "-c", GENEVAL, folder.images, results)
    said = run("geneval", sys.executable, "evaluation/summary_scores.py", results)
    assert f"Total images: {553 * 4}" in said and "Total prompts: 553" in said
    means = {}
    for category in task.weights:
        values = [right[item.id, k] for item in task.items if item.category == category for k in range(4)]
        means[category] = np.mean(values)
        assert f"{category:<16} = {np.mean(values):.2%} ({sum(values)} / {len(values)})" in said
    overall = sum(task.weights[name] * mean for name, mean in means.items()) / sum(task.weights.values())
    assert f"Overall score (avg. over tasks): {overall:.5f}" in said


def test_dpg_bench_cuts_our_grids_into_our_images(tmp_path):
    """Catches a grid that its scorer cuts elsewhere, and names by which it finds no questions."""
    (tmp_path / "prompts").mkdir()
    names = ["0", "17", "COCOval2014000000010363"]
    for name in names:
        (tmp_path / "prompts" / f"{name}.txt").write_text(f"a prompt {name}")
    levels = {(name, k): 60 * k + 10 * place for place, name in enumerate(names) for k in range(4)}
    folder = filled(open_task("dpg", tmp_path / "prompts"), tmp_path / "run", lambda item, k: levels[item.id, k])
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    head += "question_natural_language"
    rows = ['skipped,it leaves out the first row,,1,"0, 1",a,b,c,d']  # it does
    rows += [
        f"{name},a,,{n},0,entity,whole,entity - whole (x),Is it above {50 * n}?" for name in names for n in (1, 2, 3)
    ]
    (tmp_path / "own.csv").write_text("\n".join([head, *rows]) + "\n")
    (tmp_path / "fake" / "modelscope" / "utils").mkdir(parents=True)
    (tmp_path / "fake" / "modelscope" / "__init__.py").write_text("")
    (tmp_path / "fake" / "modelscope" / "pipelines.py").write_text(MODELSCOPE)
    (tmp_path / "fake" / "modelscope" / "utils" / "__init__.py").write_text("")
    (tmp_path / "fake" / "modelscope" / "utils" / "constant.py").write_text("from modelscope.pipelines import Tasks")
    said = run("ELLA", sys.executable, "dpg_bench/compute_dpg_bench.py", "--image-root-path", folder.images,
               "--resolution", SIDE, "--csv", tmp_path / "own.csv", "--pic-num", 4, "--res-path",
               tmp_path / "results.txt", PYTHONPATH=str(tmp_path / "fake"))  # fmt: skip
    scores = {key: np.mean([level > 50 * n for n in (1, 2, 3)]) for key, level in levels.items()}
    found = dict(
        line.split(", ", 1) for line in (tmp_path / "results.txt").read_text().splitlines() if ".png, " in line
    )
    for name in names:
        expected = [scores[name, k] for k in range(4)]
        assert [float(one) for one in found[str(folder.images / f"{name}.png")].split(", ")] == pytest.approx(
            [*expected, np.mean(expected)]
        )
    assert float(re.search(r"DPG-Bench score: ([\d.]+)", said)[1]) == pytest.approx(
        100 * np.mean(list(scores.values()))
    )


class Judge(BaseHTTPRequestHandler):
    """Says 1 for prompts with an even number of letters."""

    asked = 0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][1]["content"][0]["text"]
        prompt = re.search(r'PROMPT: "(.*)"\nEXPLANATION', text, re.DOTALL)[1]
        assert body["messages"][1]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
        Judge.asked += 1
        answer = {"choices": [{"message": {"content": f"Score: {int(len(prompt) % 2 == 0)}"}}]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


def test_wise_judges_every_image_and_its_overall_score_is_ours(tmp_path):
    """Catches images that it calls missing, and categories or weights that are not its own."""
    task = open_task("wise", Path(CLONES, "WISE"))
    folder = filled(task, tmp_path / "run", lambda item, sample: int(item.id) % 256)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        said = run("WISE", "bash", "eval_qwen.sh", IMAGE_DIR=str(folder.images), MAX_WORKERS="4",
                   VLLM_API_BASE=f"http://127.0.0.1:{server.server_port}/v1")  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert Judge.asked == 1000 and "Missing image" not in said
    right = {item.id: len(item.prompt) % 2 == 0 for item in task.items}
    means = {name: np.mean([right[one.id] for one in task.items if one.category == name]) for name in task.weights}
    overall = sum(weight * means[name] for name, weight in task.weights.items())
    numbers = [float(one) for one in said.rstrip().splitlines()[-1].split()]
    assert numbers == pytest.approx([*means.values(), overall], abs=0.00501)


def test_longtext_bench_counts_words_as_we_do(tmp_path):
    """Catches another way of counting the words that were read in an image."""
    reader = TextReward(side=320)
    asked = [["Come in", "Mind the step"], ["OPEN, 24 h"], ["Café by the sea"], ["nothing of this"]]
    read = [
        reader.read(written(*lines)) for lines in (["Come in", "Mind the stop"], ["OPEN 24 h"], ["Cafe by the sea"], [])
    ]
    results = tmp_path / "results.jsonl"
    results.write_text(
        "".join(
            json.dumps({"image": f"{k:04d}_1.png", "prompt": "", "ocr_gt": a, "ocr_results": "\n".join(r)}) + "\n"
            for k, (a, r) in enumerate(zip(asked, read, strict=True))
        )
    )
    said = run("X-Omni", sys.executable, "textbench/summary_scores.py", results, "--mode", "en")
    found = [json.loads(line)["text_accuray"] for line in results.read_text().splitlines()]
    assert found == pytest.approx([share_of_words(a, r) for a, r in zip(asked, read, strict=True)])
    assert 0 < found[0] < 1 and "Text Score: 0." in said
