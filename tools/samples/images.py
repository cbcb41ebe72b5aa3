"""From text to an image."""

from .parts import NOTE, PHOTOGRAPHS, SAMPLER, START, TINY, Sample, add_chain, load, save, show

PREVIEW_STEPS = 4


def text_to_image() -> Sample:
    sample = Sample("BLIP3o-1-Text-to-Image", note_height=390)
    loader = load(sample)
    chain = add_chain(sample, loader, START)
    sample.note = (
        (
            "## Text to image\n\nWrite a prompt and press **Run**. A new **seed** gives a new image. A new "
            "**noise_seed**, **steps** or **guidance** renders the same image tokens in another way and takes less "
            "time.\n\nFor several images raise **batch_size** on Token Generator, not on Empty Latent Image.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.column(380, note=[NOTE], Model=[loader])
    sample.column(420, **{"1. Write image tokens": [chain.generator]})
    sample.column(340, **{"2. Condition": [chain.empty, chain.conditioner], "3. Render": [chain.sampler]})
    sample.column(540, Image=[chain.decode, *save(sample, chain.decode)])
    sample.inputs = [(chain.generator, "prompt"), (chain.generator, "seed"), (chain.sampler, "noise_seed")]
    return sample


def preview() -> Sample:
    sample = Sample("BLIP3o-2-Quick-Preview", note_height=390)
    loader = load(sample)
    chain = add_chain(sample, loader, START)
    inputs = dict(sample.prompt[chain.sampler]["inputs"])
    quick = sample.add(SAMPLER, **{**inputs, "steps": PREVIEW_STEPS})
    quick_image = sample.add("VAEDecode", samples=[quick, 0], vae=[loader, 2])
    larger, shown = show(sample, quick_image)
    sample.note = (
        (
            "## Quick preview\n\nFour steps show what will be in the image, in a fifth of the time. Change **seed** "
            "until you like the preview; mute **Save Image** with Ctrl+M meanwhile. Then unmute it and press **Run**: "
            "both use the same image tokens. Keep **noise_seed** the same on both samplers.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.column(340, note=[NOTE], **{"Model and size": [loader, chain.empty]})
    sample.column(380, **{"1. Write image tokens": [chain.generator]})
    sample.column(280, **{"2. Condition and preview": [chain.conditioner, quick, quick_image, larger]})
    sample.column(300, **{"3. Preview": [shown], "4. Render": [chain.sampler, chain.decode]})
    sample.column(340, **{"Image": save(sample, chain.decode)})
    sample.heights[shown], sample.compared = 270, shown
    sample.inputs = [(chain.generator, "prompt"), (chain.generator, "seed")]
    return sample
