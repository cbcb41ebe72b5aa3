"""`python -m blip3o_core reconstruct`: what is left of a picture when only its image tokens, or latents, are kept."""

import argparse
import sys
from pathlib import Path

from ..errors import Blip3oError
from .common import (
    Bar,
    add_model_options,
    add_rendering_options,
    check_picture_name,
    device_of,
    dtype_of,
    parse_size,
    stored_settings,
)


def add_reconstruct_command(commands) -> None:
    reconstruct = commands.add_parser(
        "reconstruct",
        help="a picture to image tokens and back",
        description="Draw a picture again from its image tokens alone, without words and without seeing it: what an "
        "edit can keep of it where references go as tokens.",
        epilog="example: python -m blip3o_core reconstruct --image circle.png --out again.png",
    )
    reconstruct.add_argument("--image", type=Path, required=True, metavar="FILE", help="picture to start from")
    reconstruct.add_argument("--out", type=Path, required=True, help="PNG to write")
    reconstruct.add_argument(
        "--from", dest="way", choices=("codes", "autoencoder"), default="codes",
        help="from the image tokens, or through the autoencoder alone (default codes)",
    )  # fmt: skip
    add_model_options(reconstruct)
    reconstruct.add_argument("--seed", type=int, default=0, help="seed of the diffusion noise (default 0)")
    add_rendering_options(reconstruct, "the image's shape, at as many pixels as the model was trained at")
    reconstruct.set_defaults(run=run_reconstruct)


def run_reconstruct(arguments: argparse.Namespace) -> None:
    from ..checkpoint.bundled import resolve_checkpoint
    from ..checkpoint.checkpoint import open_checkpoint
    from ..editing.jobs import canonical_path, check_apart, check_sees, opened
    from ..images.png import check_writable, save_png
    from ..images.preprocess import vae_input
    from ..pipeline import Pipeline, check_rendering

    check_picture_name(arguments.out, "picture")
    check_apart(arguments.out, {canonical_path(arguments.image)})
    size, alone = parse_size(arguments.size), arguments.way == "autoencoder"
    if alone and size is not None:
        raise Blip3oError("--size does not go with --from autoencoder: it gives back the size that it sees.")
    device = device_of(arguments.device)
    checkpoint = open_checkpoint(resolve_checkpoint(arguments.checkpoint), arguments.diffusion_folder)
    check_rendering(checkpoint, size, arguments.steps, arguments.guidance)
    if not alone:
        check_sees(checkpoint)
    facts, picture = opened(arguments.image)
    view = vae_input(picture, "stretch", checkpoint.trained_side, checkpoint.latent_multiple)
    size = size or (view.shape[2], view.shape[1])
    check_writable(arguments.out.parent)
    pipeline = Pipeline(checkpoint, device, dtype_of(arguments.dtype))
    image = _through_autoencoder(pipeline, view) if alone else _from_codes(pipeline, picture, size, arguments)
    print(f"image: {facts['size']}; drawn: {size[0]}x{size[1]}", file=sys.stderr)
    options = {"from": arguments.way, "dtype": arguments.dtype, "device": str(device)}
    if not alone:
        options |= {name: getattr(arguments, name) for name in ("seed", "steps", "guidance")}
        options["size"] = f"{size[0]}x{size[1]}"
    save_png(arguments.out, image, stored_settings(arguments, checkpoint, "reconstruct", options, {"image": facts}))
    print(arguments.out)


def _from_codes(pipeline, picture, size: tuple[int, int], arguments: argparse.Namespace):
    from ..images.preprocess import to_tensor

    tokens = pipeline.tokens_of(to_tensor(picture), [""])
    with Bar("diffusion") as bar:
        return pipeline.render(tokens, [arguments.seed], size, arguments.steps, arguments.guidance, bar)[0]


def _through_autoencoder(pipeline, view):
    from ..models import autoencoder

    vae = pipeline.autoencoder
    return autoencoder.decode(vae, autoencoder.encode(vae, view.to(pipeline.device)))[0]
