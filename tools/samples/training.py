"""A LoRA that is trained in the graph, and used."""

from .parts import NOTE, PHOTOGRAPHS, RING, TINY, Chain, Sample, add_chain, load, save

# Four objects are what the bundled model most often gets wrong.
HARD = [
    "four green stars on a yellow background",
    "four red circles",
    "four blue squares on a yellow background",
    "four purple triangles",
]
UPDATES, GROUP = 3, 4  # seconds, to see how it works
NIGHT = "night (example images)"  # of nodes/host/image_folders.py
STEPS, RATE = 40, 2e-3  # a minute, and enough for the bundled model to learn the example images


def use_lora(sample: Sample, loader: str, train: str, prompt: str) -> tuple[str, Chain]:
    """The LoRA that the node `train` made, and an image with it -> (BLIP3o LoRA Loader, the nodes of the image)."""
    lora = sample.add("BLIP3oLoraLoader", lm=[loader, 0], lora_name=[train, 1], strength=1.0)
    chain = add_chain(sample, loader, prompt)
    for id in (chain.generator, chain.conditioner):
        sample.prompt[id]["inputs"]["lm"] = [lora, 0]
    return lora, chain


def train_a_lora() -> Sample:
    sample = Sample("BLIP3o-19-Train-a-LoRA-by-Reward", trains=True, note_height=420)
    loader = load(sample)
    train = sample.add(
        "BLIP3oTrainLoRA", lm=[loader, 0], prompts="\n".join(HARD), reward="tiny", file_name="BLIP3o-reward", seed=1,
        updates=UPDATES, group=GROUP, learning_rate=1e-4, rank=16, kl=0.04,
    )  # fmt: skip
    lora, chain = use_lora(sample, loader, train, RING)
    sample.note = (
        (
            "## Train a LoRA by reward\n\nPress **Run**: images of **prompts** are made and judged by the **reward**, "
            "and a LoRA of the language model learns to make more like the better ones. The node shows the curve and "
            "the newest images. Cancel keeps what was learnt. If packages are missing, the error has the line to "
            "type.\n\nThree updates only show how it works and change "
            "little. For a gain write 20 prompts or more and set **updates** to 50.\n\n**To use a LoRA again** delete "
            "the training node, press R and choose the LoRA in BLIP3o LoRA Loader.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.column(320, note=[NOTE], Model=[loader])
    sample.column(400, **{"1. Train": [train]})
    sample.column(350, **{"2. Use the LoRA": [lora, chain.generator]})
    sample.column(290, **{"3. Render": [chain.empty, chain.conditioner, chain.sampler, chain.decode]})
    sample.column(340, Image=save(sample, chain.decode))
    sample.compared = train
    sample.inputs = [(train, "prompts"), (train, "updates"), (lora, "strength"), (chain.generator, "prompt")]
    return sample


def folder_to_lora() -> Sample:
    sample = Sample("BLIP3o-20-From-a-Folder-to-a-LoRA", trains=True, note_height=390)
    curate = sample.add(
        "BLIP3oCurateImages", folder=NIGHT, output_name="BLIP3o-night", min_side=256, min_sharpness=5.0,
        near_duplicates="drop", default_caption="",
    )  # fmt: skip
    loader = load(sample)
    train = sample.add(
        "BLIP3oTrainLoRAOnImages", lm=[loader, 0], shards=[curate, 0], file_name="BLIP3o-night", seed=1, steps=STEPS,
        batch=8, learning_rate=RATE, rank=16,
    )  # fmt: skip
    lora, chain = use_lora(sample, loader, train, "a yellow ring")
    sample.note = (
        (
            "## From a folder of images to a LoRA\n\nPress **Run**: good images are chosen from a folder, a LoRA "
            "learns them, and the image on the right uses it. The example images have a black background that no "
            "caption mentions, and so has the image. With **strength** 0 it is grey again.\n\n**For your images** put "
            "them into a folder in ComfyUI/input, each with a text of the same name, press R and choose the folder. "
            "For a published checkpoint set **learning_rate** to 0.0001.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.column(350, note=[NOTE], **{"1. Choose images": [curate]})
    sample.column(340, Model=[loader], **{"2. Train": [train]})
    sample.column(350, **{"3. Use the LoRA": [lora, chain.generator]})
    sample.column(290, **{"4. Render": [chain.empty, chain.conditioner, chain.sampler, chain.decode]})
    sample.column(340, Image=save(sample, chain.decode))
    sample.compared = curate
    sample.inputs = [(curate, "folder"), (train, "steps"), (lora, "strength"), (chain.generator, "prompt")]
    return sample
