"""The mosaic of a checkpoint that is not the bundled one: it learns true colours from what is rendered."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED, NAME
from blip3o_core.tokens.colours import read_colours
from tools.comfyui.graphs import SIDE, text_to_image


@pytest.fixture(scope="module")
def copies(checkpoints):
    """Names of two copies of the bundled checkpoint, which the pack takes for others."""
    names = ["one copy", "another copy"]
    for name in names:
        shutil.copytree(BUNDLED, checkpoints / name)
    yield names
    for name in names:
        shutil.rmtree(checkpoints / name)


def shown(client, checkpoint: str, **changes) -> tuple[np.ndarray, np.ndarray]:
    """What the mosaic and the saved image show, as 8 x 8 colours in [0, 255]."""
    graph = text_to_image(checkpoint, size=(SIDE, SIDE), prompt="a red circle left of a blue star", steps=8, **changes)
    result = client.run(graph)
    assert result.status == "success", result.error
    mosaics = [p.image for p in result.previews if p.metadata.get("node_id") == "generate"]
    assert len(mosaics) == 8
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in (mosaics[-1], client.view(**result.images[0]))]
    return tuple(np.asarray(image.resize((8, 8), Image.BOX), np.float32) for image in images)


def apart(pair: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.linalg.norm(pair[0] - pair[1], axis=-1).mean())


def test_the_next_mosaic_has_the_colours_of_the_image(client, server, copies):
    """Catches colours that are never learned or shown, of other codes, for one folder only, or of the bundled model."""
    folder = server.base / "user" / "__blip3o" / "token_colours"
    others = set(folder.glob("*"))
    bundled = apart(shown(client, NAME))
    assert set(folder.glob("*")) == others
    before = apart(shown(client, copies[0]))
    [file] = set(folder.glob("*")) - others
    codes = open_checkpoint(BUNDLED).codes_id.num_codes
    assert read_colours(file, codes).counts.sum() == 64
    after = apart(shown(client, copies[0], **{"sampling.top_k": 1199}))  # the same tokens, written again
    elsewhere = apart(shown(client, copies[1]))
    print(f"distance to the image: {before:.1f} before, {after:.1f} after, {elsewhere:.1f} in a copied folder")
    print(f"with the fitted colours {bundled:.1f}")
    assert before > 100 > 60 > max(bundled, after, elsewhere)
    assert set(folder.glob("*")) - others == {file} and read_colours(file, codes).counts.sum() == 3 * 64


def test_only_whole_images_of_their_codes_are_learned_from(in_host, loose_checkpoint, tmp_path):
    """Catches colours of a mixed, masked, partial or weakened rendering, a condition that fails in a stock node because
    of the note in it, rows taken for others, and a note that changes an image.
    """

    def look(module, folder, user):
        import dataclasses
        import pathlib

        import folder_paths
        import torch

        import nodes

        key = module(".nodes.host.colours").KEY
        lm, model, vae, _ = module(".nodes.host.loaders").load(folder, None, "fp32")
        sampling = module(".blip3o_core.decoding.sampling").Sampling()
        execute = module(".nodes.sample").DiffusionSampler.execute
        strengths = module(".blip3o_core.diffusion.reference_mode").Strengths
        place, images = pathlib.Path(user), {}

        def learned(case, positive, latent=None, guidance=2.0, denoise=1.0, tiled=False):
            """How often each code was learned, as {code: times}."""
            own = place / case
            folder_paths.set_user_directory(str(own))
            latent = latent or {"samples": torch.zeros(1, 8, 16, 16)}
            result = execute(model, positive, negative, latent, 1, 2, guidance, denoise)[0]
            images[case] = vae.decode_tiled(result["samples"]) if tiled else vae.decode(result["samples"])
            vae.decode(result["samples"])  # a second time: it is the same image
            files = list(own.rglob("*.safetensors"))
            read = module(".blip3o_core.tokens.colours").read_colours
            counts = read(files[0], 96).counts.tolist() if files else []
            return {code: times for code, times in enumerate(counts) if times}

        def expected(*rows):
            return {int(code): int((torch.cat(rows) == code).sum()) for code in torch.cat(rows).unique()}

        with torch.inference_mode():
            tokens = lm.generate_tokens(["a", "b"], 0, sampling)
            two, _ = lm.conditionings(tokens)
            one, negative = lm.conditionings(tokens.row(0))
            weak, _ = lm.conditionings(tokens.row(0), None, strengths(text=0.5))
            bare = [[one[0][0], {name: value for name, value in one[0][1].items() if name != key}]]
            set_area = nodes.ConditioningSetAreaPercentage().append
            mask, empty = torch.ones(1, 16, 16), torch.zeros(4, 8, 16, 16)
            a, b = tokens.codes
            right = {
                "plain": learned("plain", one) == expected(a),
                "tiled": learned("tiled", one, tiled=True) == expected(a),
                "four latents": learned("four latents", two, {"samples": empty}) == expected(a, b, a, b),
                "of a batch": learned("of a batch", one, {"samples": empty[:1], "batch_index": [3]}) == expected(a),
            }
            ended = dataclasses.replace(tokens.row(0), codes=a[None, :12], lengths=[12], hidden=None)
            parts = {
                "missing": bare,
                "ended early": lm.conditionings(ended)[0],
                "weak": weak,
                "average": nodes.ConditioningAverage().addWeighted(one, negative, 0.5)[0],
                "concat": nodes.ConditioningConcat().concat(one, negative)[0],
                "combine": nodes.ConditioningCombine().combine(one, two)[0][:1] + negative,
                "multiply": nodes.ConditioningMultiply().multiply(one, 0.5)[0],
                "zero": nodes.ConditioningZeroOut().zero_out(one)[0],
                "area": set_area(one, 0.5, 0.5, 0, 0, 1.0)[0],
                "full area": set_area(one, 1.0, 1.0, 0, 0, 1.0)[0],
                "mask": nodes.ConditioningSetMask().append(one, mask, "default", 1.0)[0],
                "range": nodes.ConditioningSetTimestepRange().set_range(one, 0.0, 0.5)[0],
            }
            right |= {name: learned(name, positive) == {} for name, positive in parts.items()}
            right["denoise"] = learned("denoise", one, denoise=0.5) == {}
            right["guidance"] = learned("guidance", one, guidance=0.5) == {}
            held = {"samples": empty[:1], "noise_mask": mask[:, None]}
            right["noise mask"] = learned("noise mask", one, held) == {}
        same = torch.equal(images["plain"], images["missing"]) and torch.equal(images["plain"], images["full area"])
        finite = all(bool(image.isfinite().all()) for image in images.values())
        return {"wrong": [name for name, fits in right.items() if not fits], "same": same, "finite": finite}

    seen = in_host(look, folder=loose_checkpoint, user=str(tmp_path))
    assert seen == {"wrong": [], "same": True, "finite": True}


def test_a_folder_that_cannot_be_written_stops_nothing(in_host, loose_checkpoint, tmp_path):
    """Catches an image that is lost because its colours cannot be kept, and a mosaic that fails without them."""

    def look(module, folder, user):
        import folder_paths
        import torch

        folder_paths.set_user_directory(user)  # it is a file
        lm, model, vae, _ = module(".nodes.host.loaders").load(folder, None, "fp32")
        execute = module(".nodes.sample").DiffusionSampler.execute
        with torch.inference_mode():
            tokens = lm.generate_tokens(["a"], 0, module(".blip3o_core.decoding.sampling").Sampling())
            latent = {"samples": torch.zeros(1, 8, 16, 16)}
            result = execute(model, *lm.conditionings(tokens), latent, 1, 2, 2.0, 1.0)[0]
            codes, known = lm.mosaic_colours()
            return [list(vae.decode(result["samples"]).shape), list(codes.shape), known is None]

    file = tmp_path / "user"
    file.write_text("")
    assert in_host(look, folder=loose_checkpoint, user=str(file)) == [[1, 128, 128, 3], [96, 3], True]
    assert file.read_text() == ""
