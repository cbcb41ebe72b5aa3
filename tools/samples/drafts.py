"""Image tokens in hand: drafts to choose from, splices, comparisons, files."""

from .parts import (
    NOTE,
    PHOTOGRAPHS,
    SAMPLER,
    SIDE,
    START,
    TINY,
    WORD,
    Chain,
    Sample,
    Subgraph,
    add_chain,
    load,
    save,
    show,
    stitch,
)

DRAFTS, DRAFT_STEPS = 8, 4
# Of eight the bundled model gets some wrong and some right; tests/host/test_samples_are_right.py judges the best.
HARD = "four green stars on a yellow background"
CHOSEN = 3  # counted from 1: what the thumbnail and the tests choose
# Spliced in the middle; tests/host/test_samples_are_right.py judges the image.
LEFT, RIGHT = "a small red circle left of a small blue star", "a small green circle left of a small purple ring"


def choose_a_draft() -> Sample:
    sample = Sample("BLIP3o-10-Choose-a-Draft", note_height=390)
    loader = load(sample)
    drafts = add_chain(sample, loader, START)
    sample.prompt[drafts.generator]["inputs"]["batch_size"] = DRAFTS
    quick = sample.prompt[drafts.sampler]["inputs"]
    finished = {**quick}
    quick["steps"] = DRAFT_STEPS
    scored = _score(sample, drafts)
    choose = sample.add(
        "BLIP3oChooseDraft", tokens=[drafts.generator, 0], images=[drafts.decode, 0], choice=0, scores=[scored, 0]
    )
    several = sample.add("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=DRAFTS)
    one = sample.add("LatentFromBatch", samples=[several, 0], batch_index=[choose, 2], length=1)
    conditioner = sample.add("BLIP3oHiddenStateConditioner", lm=[loader, 0], tokens=[choose, 0])
    finished |= {"positive": [conditioner, 0], "negative": [conditioner, 1], "latent_image": [one, 0]}
    render = sample.add(SAMPLER, **finished)
    decode = sample.add("VAEDecode", samples=[render, 0], vae=[loader, 2])
    sample.note = (
        (
            "## Choose a draft\n\nPress **Run**: eight drafts appear, rendered in four steps and scored, and the one "
            "with the highest score is finished. **Click a different one and press Run again**: only that one is "
            "finished, and no token is written again. Delete Score Images, and everything waits for your click.\n\n"
            "Open **Its size and noise** to change the size of the finished image; keep its batch_size equal "
            "to the number of drafts, so that each keeps its noise.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.subgraphs["Quick renders"] = Subgraph(_rendering(drafts), [], ["images"])
    sample.subgraphs["Its size and noise"] = Subgraph([several, one], [], ["latent"])
    sample.column(320, note=[NOTE], Model=[loader])
    sample.column(350, **{"1. Write eight drafts": [drafts.generator, "Quick renders"]})
    sample.column(380, **{"2. The best, or click one": [scored, choose]})
    sample.column(290, **{"3. Finish it": ["Its size and noise", conditioner, render, decode]})
    sample.column(370, Image=save(sample, decode))
    sample.compared = choose
    sample.answers = {choose: {"choice": CHOSEN}}
    sample.heights[choose] = 560
    sample.inputs = [(drafts.generator, "prompt"), (drafts.generator, "seed"), (choose, "choice")]
    return sample


def best_of() -> Sample:
    sample = Sample("BLIP3o-18-Best-of-Eight", note_height=390)
    loader = load(sample)
    chain = add_chain(sample, loader, HARD)
    sample.prompt[chain.generator]["inputs"]["batch_size"] = DRAFTS
    scored = _score(sample, chain)
    best = sample.add("BLIP3oPickBest", images=[chain.decode, 0], scores=[scored, 0], count=1)
    larger, seen = show(sample, chain.decode)
    sample.note = (
        (
            "## The best of eight\n\nAnother seed gives another image of a prompt, and some are wrong. This "
            "makes eight, scores each, and saves the best. Score Images shows the scores, Pick Best says which "
            "image it is.\n\nThe reward **tiny** judges the bundled model's shapes and words. For words in larger "
            "images choose **text**; for models of your own put them into models/blip3o_rewards. Two Score Images in a "
            "row add up.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.column(330, note=[NOTE], Model=[loader])
    sample.column(360, **{"1. Write eight images": [chain.generator]})
    sample.column(300, **{"2. Render them": [chain.empty, chain.conditioner, chain.sampler, chain.decode]})
    sample.column(360, **{"All eight": [larger, seen], "3. Score them": [scored]})
    sample.column(340, **{"4. Save the best": [best, *save(sample, best)]})
    sample.inputs = [(chain.generator, "prompt"), (chain.generator, "seed"), (scored, "reward")]
    return sample


def splice() -> Sample:
    sample = Sample("BLIP3o-11-Splice-Two-Drafts", note_height=390)
    loader = load(sample)
    first = add_chain(sample, loader, LEFT)
    second = sample.add("BLIP3oTokenGenerator", **{**sample.prompt[first.generator]["inputs"], "prompt": RIGHT})
    mask = _right_half(sample)
    spliced = sample.add("BLIP3oSpliceTokens", base=[first.generator, 0], other=[second, 0], mask=[mask, 0])
    sample.prompt[first.conditioner]["inputs"]["tokens"] = [spliced, 0]
    sample.note = (
        (
            "## Splice two drafts\n\nThe left half comes from the first image, the right half from the second. They "
            "are put together **before** anything is rendered, so the sampler renders one image without a seam. White "
            "in the mask takes the second image, token by token.\n\nFor a mask of your own delete **The right half**, "
            "add Load Image, paint in the Mask Editor and connect its MASK.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.column(340, note=[NOTE], Model=[loader], **{"Mask and size": ["The right half", first.empty]})
    sample.column(350, **{"1. First image": [first.generator]})
    sample.column(350, **{"2. Second image": [second]})
    sample.column(300, **{"3. Splice and render": [spliced, first.conditioner, first.sampler, first.decode]})
    sample.column(390, Image=save(sample, first.decode))
    sample.inputs = [(first.generator, "prompt"), (second, "prompt"), (first.generator, "seed"), (second, "seed")]
    return sample


def compare() -> Sample:
    sample = Sample("BLIP3o-12-Compare-Two-Drafts", note_height=360)
    loader = load(sample)
    first, second = (add_chain(sample, loader, prompt) for prompt in (START, START.replace("star", "square")))
    compared = sample.add("BLIP3oCompareTokens", a=[first.generator, 0], b=[second.generator, 0], cell_pixels=32)
    shown = sample.add("PreviewImage", images=[compared, 3])
    counts = sample.add("PreviewAny", source=[compared, 2])
    both = stitch(sample, first.decode, second.decode, 2)
    sample.subgraphs["Render both"] = Subgraph([*_rendering(first), *_rendering(second), both], [], ["both"])
    sample.note = (
        (
            "## What does a word change?\n\nTwo prompts differ in one word and have the same **seed**. Compare Tokens "
            "shows both images as the language model writes them, a square for each token, frames the squares that "
            "differ and counts them. Its **mask** also serves Splice Tokens. For one image alone there is BLIP3o View "
            "Tokens.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.column(320, note=[NOTE], Model=[loader])
    sample.column(340, **{"1. First prompt": [first.generator]})
    sample.column(340, **{"2. Second prompt": [second.generator]})
    sample.column(350, **{"3. Compare": [compared, shown, counts], "4. Render": ["Render both"]})
    sample.column(370, Image=save(sample, both))
    sample.compared = shown
    sample.inputs = [(first.generator, "prompt"), (second.generator, "prompt"), (first.generator, "seed")]
    return sample


def save_tokens() -> Sample:
    sample = Sample("BLIP3o-13-Save-and-Load-Tokens", note_height=410)
    loader = load(sample)
    chain = add_chain(sample, loader, WORD)
    kept = sample.add("BLIP3oSaveTokens", tokens=[chain.generator, 0], filename_prefix="tokens/BLIP3o")
    sample.prompt[chain.conditioner]["inputs"]["tokens"] = [kept, 0]
    sample.note = (
        (
            "## Save and load image tokens\n\nWriting tokens takes most of the time. Save Tokens keeps them in a file "
            "in output/tokens, with their prompt, seed and all that renders the same image again.\n\n**To open the "
            "file:** delete Token Generator and Save Tokens, add **BLIP3o Load Tokens**, press R, choose the file, and "
            "connect its **tokens** to the Conditioner. No token is written again: only noise_seed, steps, guidance "
            "and size matter then.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    seen = sample.compared = _view(sample, kept)
    sample.column(340, note=[NOTE], Model=[loader])
    sample.column(360, **{"1. Write image tokens": [chain.generator]})
    sample.column(300, **{"2. Keep them": [kept, seen], "3. Condition": [chain.empty, chain.conditioner]})
    sample.column(290, **{"4. Render": [chain.sampler, chain.decode]})
    sample.column(420, Image=save(sample, chain.decode))
    sample.inputs = [(chain.generator, "prompt"), (chain.generator, "seed"), (kept, "filename_prefix")]
    return sample


def _score(sample: Sample, chain: Chain) -> str:
    """Scores of the chain's images, by the judge of the bundled model's world."""
    return sample.add(
        "BLIP3oScoreImages", images=[chain.decode, 0], prompt="", reward="tiny", tokens=[chain.generator, 0], weight=1.0
    )


def _view(sample: Sample, tokens: str) -> str:
    return sample.add("BLIP3oViewTokens", tokens=[tokens, 0], cell_pixels=32)


def _rendering(chain: Chain) -> list[str]:
    return [id for id in chain.ids if id != chain.generator]


def _right_half(sample: Sample) -> str:
    """The subgraph that gives a mask of it."""
    black = sample.add("SolidMask", value=0.0, width=SIDE, height=SIDE)
    white = sample.add("SolidMask", value=1.0, width=SIDE // 2, height=SIDE)
    mask = sample.add("MaskComposite", destination=[black, 0], source=[white, 0], x=SIDE // 2, y=0, operation="add")
    sample.subgraphs["The right half"] = Subgraph([black, white, mask], [], ["mask"])
    return mask
