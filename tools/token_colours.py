"""The colours of the bundled model's tokens, fitted to drawn scenes again.

    python -m tools.token_colours             writes blip3o_core/tiny/code_colours.png and says how close they are
    python -m tools.token_colours --learned   says how close colours are that are learned while rendering

Codes that no training scene uses get the colour of the most similar one. `--learned` takes the bundled model for an
unknown checkpoint: it renders prompts of the tiny world and looks at the mosaic after 1, 10, 50 and 100 images.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.files import atomic_write
from blip3o_core.models.image_tokenizer import ImageTokenizer
from blip3o_core.pipeline import Pipeline
from blip3o_core.tiny.code_colours import FILE
from blip3o_core.tiny.evaluation import GUIDANCE, SIDES, STEPS
from blip3o_core.tiny.recipe.autoencoder import pixels
from blip3o_core.tiny.scenes.captions import caption
from blip3o_core.tiny.scenes.world import SECOND, World, make_scene
from blip3o_core.tokens.colours import code_colours, learn, mosaic, read_colours

WIDTH = 128  # codes in a row of the PNG
SCENES, HELD_BACK, BATCH = 3_000, 400, 100
# More grounds than in training. Textures change no mean colour, and oblong images have the codes of square ones.
WORLDS = {1: World(coloured=0.6), 2: replace(SECOND, coloured=0.6, oblong=0.0)}
LOOKS = (1, 10, 50, 100)  # after so many images


@torch.no_grad()
def cells(tokenizer: ImageTokenizer, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, T) codes of `count` scenes, and (N, T, 3) the mean colour of what each stands for, in [0, 255]."""
    codes, colours, side = [], [], tokenizer.config.image_size
    world = WORLDS[2 if side == SIDES[2] else 1]
    for first in range(0, count, BATCH):
        last = min(first + BATCH, count)
        images = pixels([make_scene("colours", split, index, world) for index in range(first, last)], side)
        codes.append(tokenizer.codes(tokenizer.features(images)))
        means = F.avg_pool2d((images + 1) * 127.5, tokenizer.config.patch_size)
        colours.append(means.flatten(2).movedim(1, 2))
    return torch.cat(codes), torch.cat(colours)


@torch.no_grad()
def fit(tokenizer: ImageTokenizer, scenes: int = SCENES) -> torch.Tensor:
    """(K, 3) uint8."""
    codes, colours = cells(tokenizer, "train", scenes)
    codes, count = codes.flatten(), tokenizer.config.num_codes
    sums = torch.zeros(count, 3, dtype=torch.float64).index_add_(0, codes, colours.flatten(0, 1).double())
    seen = torch.bincount(codes, minlength=count)
    means = sums / seen.clamp(min=1)[:, None]
    quantiser = tokenizer.bottleneck["regularizer"]
    places = F.normalize(quantiser["embedding_proj"](quantiser["embedding"].weight), dim=-1)
    [known] = seen.nonzero(as_tuple=True)
    similar = known[(places @ places[known].T).argmax(-1)]  # of a known code: itself
    return means[similar].round().to(torch.uint8)


def distance(table: torch.Tensor, codes: torch.Tensor, colours: torch.Tensor) -> float:
    """Mean over all cells of the distance between the colour shown and the true one; black to white is 442."""
    return (table[codes].float() - colours).norm(dim=-1).mean().item()


def measure_learned() -> None:
    pipeline = Pipeline.load(BUNDLED)
    seen = cells(pipeline.checkpoint.load_image_tokenizer(torch.float32), "held_back", HELD_BACK)
    num_codes, grid = pipeline.language.vocabulary.num_codes, pipeline.language.grid
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "learned.safetensors")
        for index in range(max(LOOKS)):
            tokens = pipeline.generate_tokens([caption(make_scene("learn", "train", index), index)], [index])
            image = pipeline.render(tokens, [1000 + index], steps=STEPS, guidance=GUIDANCE)
            learn(path, num_codes, tokens.codes, grid, image)
            if index + 1 in LOOKS:
                table = read_colours(path, num_codes)
                shown = torch.stack([mosaic(row[None], table.colours, grid, table.known) for row in seen[0]])
                far = (shown.flatten(1, 2).float() - seen[1]).norm(dim=-1).mean().item()
                share = table.known[seen[0]].float().mean().item()
                print(f"after {index + 1} images: distance {far:.1f}, {share:.0%} of the tokens known")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learned", action="store_true", help="measure learned colours; writes nothing")
    if parser.parse_args().learned:
        return measure_learned()
    checkpoint = open_checkpoint(BUNDLED)
    tokenizer = checkpoint.load_image_tokenizer(torch.float32)
    table = fit(tokenizer)
    with atomic_write(FILE) as file:
        Image.frombytes("RGB", (WIDTH, len(table) // WIDTH), table.numpy().tobytes()).save(file, "PNG", optimize=True)
    embedded = code_colours(checkpoint.load_language(torch.float32).code_embedding(torch.empty(0)))
    seen = cells(tokenizer, "held_back", HELD_BACK)
    before, after = distance(embedded, *seen), distance(table, *seen)
    print(f"distance to the true colour in {HELD_BACK} held-back scenes: {before:.1f} by embedding, {after:.1f} fitted")


if __name__ == "__main__":
    main()
