"""`blip3o reconstruct`: what is left of an image when only its image tokens, or its latents, are kept."""

import argparse
from pathlib import Path

from ..files import check_writable
from .arguments import IMAGE, add_model_options, add_rendering_options, png_file, seed
from .common import (
    CANCELLED_ONE,
    Bar,
    compute_settings,
    load_pipeline,
    open_checkpoint,
    option_words,
    report,
    say,
    stored_settings,
)
from .device import device_of
from .parser import UsageError


def add_command(commands) -> None:
    parser = commands.add_parser(
        "reconstruct",
        help="turn an image into image tokens and back",
        description="Make an image again from its image tokens alone, without a prompt. It shows what an edit with "
        "--reference-mode tokens can keep of the image.",
        needs="reconstruct needs an image and a name for the result: --image FILE --out FILE.png.",
        example="blip3o reconstruct --image circle.png --out again.png",
    )
    image = parser.group(IMAGE)
    image.add_argument("--image", type=Path, required=True, metavar="FILE", help="image to start from")
    image.add_argument("--out", type=png_file, required=True, metavar="FILE.png", help="PNG file to write")
    image.add_argument(
        "--from",
        dest="source",
        choices=("codes", "autoencoder"),
        default="codes",
        help="what to make it from: its image tokens (codes), or the autoencoder's latents (default: %(default)s)",
    )
    image.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of the diffusion noise (default: %(default)s)"
    )
    add_rendering_options(parser, "the image's shape, with as many pixels as the model was trained at")
    add_model_options(parser)
    parser.set_defaults(run=run, parser=parser, cancelled=CANCELLED_ONE)


def run(arguments: argparse.Namespace) -> None:
    from_latents = arguments.source == "autoencoder"
    if from_latents and arguments.size is not None:
        raise UsageError("--size cannot be used with --from autoencoder, which keeps the size. Leave --size out.")
    from ..decoding.interface import Compute
    from ..editing.jobs import canonical_path, check_output, opened, require_image_tokenizer
    from ..images.png import save_png
    from ..images.preprocess import vae_input
    from ..pipeline import check_rendering

    check_output(arguments.out, {canonical_path(arguments.image)})
    device = device_of(arguments.device)
    checkpoint = open_checkpoint(arguments)
    compute = Compute(device)
    check_rendering(checkpoint, arguments.size, arguments.steps, arguments.guidance, compute=compute)
    if not from_latents:
        require_image_tokenizer(checkpoint)
    found = opened(arguments.image)
    view = vae_input(found.image, "stretch", checkpoint.trained_side, checkpoint.latent_multiple)
    size = arguments.size or (view.shape[2], view.shape[1])
    check_writable([arguments.out])
    pipeline = load_pipeline(arguments, checkpoint, device)
    made = _through_autoencoder(pipeline, view) if from_latents else _from_codes(pipeline, found.image, size, arguments)
    say("; ".join([f"image: {found.facts['size']}", f"reconstruction: {size[0]}x{size[1]}", *found.remarks]))
    settings = {"from": arguments.source} | compute_settings(arguments, device)
    if not from_latents:
        settings |= {name: getattr(arguments, name) for name in ("seed", "steps", "guidance")}
        settings["size"] = f"{size[0]}x{size[1]}"
    words = ["reconstruct", "--image=IMAGE", *option_words(settings)]
    save_png(arguments.out, made, stored_settings(arguments, checkpoint, settings, {"image": found.facts}, words))
    report(arguments.out)


def _from_codes(pipeline, image, size: tuple[int, int], arguments: argparse.Namespace):
    from ..images.preprocess import tokenizer_input

    # Made small here: all pixels of a photograph as floats may not fit into memory.
    seen = tokenizer_input(image, "stretch", pipeline.image_tokenizer.image_size)
    tokens = pipeline.tokens_of(seen, [""])
    with Bar("diffusion") as bar:
        return pipeline.render(tokens, [arguments.seed], size, arguments.steps, arguments.guidance, bar)[0]


def _through_autoencoder(pipeline, view):
    from ..models import autoencoder

    vae = pipeline.autoencoder
    return autoencoder.decode(vae, autoencoder.encode(vae, view.to(pipeline.device)))[0]
