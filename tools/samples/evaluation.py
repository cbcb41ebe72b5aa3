"""Many prompts, what their images are worth, and all of them in one grid."""

from .parts import NOTE, PHOTOGRAPHS, TINY, Sample, add_chain, load

# The bundled model gets most of them right, and some of four objects or six letters wrong.
PROMPTS = """# surfaces
a striped red circle
a checked blue square on a dotted yellow background
# position
a red circle left of a blue star
a green square above a purple ring
# counting
three red circles
four green stars on a yellow background
# words
the word "SUN" in blue
the word "DRAGON" in green"""


def evaluate_prompts() -> Sample:
    sample = Sample("BLIP3o-21-Evaluate-Prompts", note_height=320)
    loader = load(sample)
    prompts = sample.add("BLIP3oPromptList", prompts=PROMPTS, file="the prompts above", sample=0, limit=0)
    chain = add_chain(sample, loader, "")
    sample.prompt[chain.generator]["inputs"] |= {"prompt": [prompts, 0], "seed": [prompts, 1]}
    sample.prompt[chain.sampler]["inputs"]["noise_seed"] = [prompts, 1]
    scored = sample.add("BLIP3oScoreImages", images=[chain.decode, 0], prompt=[prompts, 0], reward="tiny", weight=1.0)
    grid = sample.add(
        "BLIP3oEvaluationGrid", images=[chain.decode, 0], prompts=[prompts, 0], scores=[scored, 0],
        categories=[prompts, 2], columns=4, image_width=192, filename_prefix="",
    )  # fmt: skip
    saved = sample.add("SaveImage", images=[grid, 0], filename_prefix="BLIP3o-evaluation")
    table = sample.add("PreviewAny", source=[grid, 1])
    sample.note = (
        (
            "## Evaluate a list of prompts\n\nPress **Run**: every prompt gets an image and a score, and the grid "
            "shows them all. The table has the mean of each category and how sure it is. The seeds stay: change the "
            "checkpoint or a LoRA, run again, and compare. Prompts may also come from a **file** in ComfyUI/input.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.column(370, note=[NOTE], Model=[loader], **{"1. Prompts": [prompts]})
    sample.column(340, **{"2. Write image tokens": [chain.generator]})
    sample.column(280, **{"3. Render": [chain.empty, chain.conditioner, chain.sampler, chain.decode]})
    sample.column(320, **{"4. Score and show": [scored, grid]})
    sample.column(400, Grid=[saved], Table=[table])
    sample.heights[prompts] = 250
    sample.inputs = [(prompts, "prompts"), (prompts, "file"), (scored, "reward")]
    return sample
