"""Checkpoint folders that were damaged, made by hand, or made to do harm: config files and names."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from tests.support.attacks import Attack, attacks, check, copy_of_bundled, edit_json, generate

GENERATION, PROMPTS = "generation_config.json", "tokenizer_config.json"
SANA, VAE = "diffusion/transformer/config.json", "diffusion/vae/config.json"
SHIFT = "diffusion/scheduler/scheduler_config.json"
CONFIGS = ("config.json", GENERATION, PROMPTS, SANA, VAE, SHIFT)


def inspect(folder: Path) -> list[str]:
    return ["inspect", "--checkpoint", str(folder)]


def changed(says: str | None, file: str = "config.json", command=inspect, drop=(), **changes) -> Attack:
    """Fields of a config file with other values."""

    def prepare(place: Path) -> list[str]:
        folder = copy_of_bundled(place)
        edit_json(folder / file, drop, **changes)
        return command(folder)

    shown = ", ".join(f"{name} {str(value)[:30]}" for name, value in changes.items())
    return Attack(f"{Path(file).parent.name} {shown}".strip(), prepare, says)


def values(name: str, says: str, *wrong, file: str = "config.json") -> list[Attack]:
    return [changed(f"{name} is .*{says}", file, **{name: value}) for value in wrong]


def replaced(name: str, says: str | None, write: Callable[[Path], object], file="config.json", command=inspect):
    """A file with another content, or something else in its place."""

    def prepare(place: Path) -> list[str]:
        folder = copy_of_bundled(place)
        (folder / file).unlink(missing_ok=True)
        write(folder / file)
        return command(folder)

    return Attack(f"{file}: {name}", prepare, says)


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(6 * 2**30)


def as_utf16(path: Path) -> None:
    path.write_text(json.dumps({"hidden_size": 1}), encoding="utf-16")


NESTED, PIPE = r"nested too deeply", r"is a pipe, not a regular file"
COPY = "Copy"
FILES = [
    *(replaced("lists in lists", NESTED, lambda path: path.write_text("[" * 100_000), file) for file in CONFIGS[1:]),
    *(
        replaced("objects in objects", NESTED, lambda path: path.write_text('{"a":' * 100_000), file)
        for file in CONFIGS
    ),
    *(
        replaced("a pipe", PIPE if file not in (SANA, VAE) else "No diffusion folder", os.mkfifo, file)
        for file in CONFIGS
    ),
    replaced("a device", "is a device", lambda path: path.symlink_to("/dev/zero")),
    replaced("a file of another kind", "cannot be read as JSON", lambda path: path.symlink_to("/etc/passwd")),
    replaced("a folder", "is a folder", Path.mkdir),
    replaced("a link to nothing", "is a link to a file that does not exist", lambda path: path.symlink_to("absent")),
    replaced("a link to itself", "cannot be read", lambda path: path.symlink_to(path)),
    replaced("6 GB of nothing", r"6,442,450,944 bytes", sparse),
    replaced("UTF-16", "UTF-16", as_utf16),
    replaced("a number of 5,000 digits", "too many digits", lambda path: path.write_text('{"a": ' + "9" * 5000 + "}")),
    replaced("a name twice", "twice", lambda path: path.write_text('{"hidden_size": 192, "hidden_size": 64}')),
    replaced(
        "a Git LFS pointer", "git lfs pull", lambda path: path.write_text("version https://git-lfs.github.com/v1")
    ),
    replaced("nothing in it", "cannot be read as JSON", Path.touch, VAE),
]

WHOLE, NUMBER, TRUTH = "it must be a whole number", "it must be a number", "it must be true or false"
LANGUAGE = [
    *values("num_hidden_layers", WHOLE, 10**5, 10**9, 0, -1, True, "6"),
    *values("hidden_size", WHOLE, 2**40, 10**18, -1, 1.5),
    *values("intermediate_size", WHOLE, 2**62),
    *values("vocab_size", WHOLE, 2**62, [1]),
    *values("num_attention_heads", WHOLE, 2**40, 0),
    *values("num_key_value_heads", WHOLE, 0, -2),
    *values("head_dim", WHOLE, 0, 10**9, -48, 48.5, "48"),
    *values("max_position_embeddings", WHOLE, "x", 2**70, math.inf, math.nan, -1, 0, 1.5, True, [1]),
    *values("rope_theta", NUMBER, math.nan, 0, -1, "x", math.inf, 1e-300, [1]),
    *values("rms_norm_eps", NUMBER, math.nan, -1, "x", math.inf, 1e30),
    *values("hidden_act", "it must be a word", 5, {"a": 1}),
    *values("tie_word_embeddings", TRUTH, "false", 1),
    *values("use_und_image_vae", TRUTH, "false", []),
    *values("attention_bias", TRUTH, "yes"),
    changed("cannot be built", hidden_act="evil"),
    changed("do not fit", num_key_value_heads=3),
    changed("cannot be built", head_dim=47),
    changed("do not fit", attention_bias=True),
    changed("scales the rotary embedding", rope_scaling={"rope_type": "yarn", "factor": 1e9}),
    changed("scales the rotary embedding", rope_parameters={"rope_type": "evil"}, drop=("rope_theta",)),
    changed("use_sliding_window", use_sliding_window=True, sliding_window=4),
    # What the network is not built from does nothing, however large it is.
    changed(None, num_labels=10**9, id2label={"x": "y"}, attribute_map={"hidden_size": "vocab_size"}),
    changed(None, to_dict=1, save_pretrained="x", __class__="x", auto_map={"AutoModel": "evil.M"}, dtype="__import__"),
    changed(None, quantization_config={"quant_method": "bitsandbytes"}, _attn_implementation="evil/kernel"),
]
IDS = [
    *(
        changed("image_start_token_id|the image tokens the ids", image_start_token_id=value)
        for value in (-1, 8390, "x", True)
    ),
    *(
        changed("num_image_tokens|the image tokens the ids", num_image_tokens=value)
        for value in (0, -1, 2**70, True, 8193)
    ),
    *(changed("image_start_tag_id", image_start_tag_id=value) for value in (10**9, -1)),
    *(changed("image_end_tag_id", image_end_tag_id=value) for value in (10**9, -1)),
    *(changed("pad_token_id", GENERATION, pad_token_id=value) for value in (10**6, -1, "x", 1.5, [1], 2**70)),
    *(
        changed("eos_token_id", GENERATION, eos_token_id=value)
        for value in ("abc", [1e300], -1, 10**12, [[1]], {"a": 1})
    ),
    *(changed("model_max_length", PROMPTS, model_max_length=value) for value in (math.nan, -1, "x", True, 1e-9)),
    changed(None, PROMPTS, model_max_length=10**30),
    changed("first generation", drop=("image_start_token_id", "num_image_tokens", "image_start_tag_id")),
]
DIFFUSION = [
    *values("patch_size", WHOLE, 0, "2", -1, 10**9, 1.5, file=SANA),
    *values("sample_size", WHOLE, "x", -1, 0, 4096, 10**6, [8], None, file=SANA),
    *values("num_layers", WHOLE, 10**5, 10**9, "4", -1, 0, file=SANA),
    *values("interpolation_scale", NUMBER, 0, math.nan, "x", -1, math.inf, file=SANA),
    *values("mlp_ratio", NUMBER, 1e18, math.nan, file=SANA),
    *values("norm_eps", NUMBER, math.nan, file=SANA),
    *values("timestep_scale", NUMBER, 0, file=SANA),
    *values("in_channels", WHOLE, 2**62, file=SANA),
    *values("num_cross_attention_heads", WHOLE, 0, file=SANA),
    changed("do not fit|cannot be built", SANA, patch_size=2),
    changed("cannot be built", SANA, qk_norm="evil"),
    changed(None, SANA, pretrained_model_name_or_path="http://x", args=[1], kwargs={"a": 1}, _class_name="os.system"),
    *values("decoder_block_out_channels", "it must be a list", 5, [], [1] * 64, ["a"], [2**40] * 4, "abcd", file=VAE),
    *values(
        "decoder_layers_per_block", "it must be a list", [0, 1, 2, 10**6], [0, 1, 2, 10**9], [0, -1, 2, 2], file=VAE
    ),
    *values("decoder_qkv_multiscales", "it must be a list", [[0], [-1], ["x"], [10**9]], file=VAE),
    *values("scaling_factor", NUMBER, 0, "a", math.nan, -1, 1e-300, 1e300, True, [1], file=VAE),
    *values("latent_channels", WHOLE, 2**62, "16", file=VAE),
    changed("cannot be built", VAE, encoder_block_types=["Evil"] * 4),
    changed("cannot be built", VAE, decoder_act_fns="evil"),
    *values("shift", NUMBER, "x", 0, -1, math.nan, math.inf, 1e308, 1e-308, True, [1], 2**2000, file=SHIFT),
]


def called(name: str, says: str, *more: str) -> Attack:
    return Attack(f"a checkpoint called {name[:30]!r}", lambda place: ["inspect", "--checkpoint", name, *more], says)


def in_a_folder(name: str | bytes) -> Attack:
    def prepare(place: Path) -> list[str]:
        folder = copy_of_bundled(place)
        return generate(Path(os.fsdecode(folder.rename(place / os.fsdecode(name)))))

    return Attack(f"a folder called {name!r}", prepare, None)


def hub_cache(place: Path) -> list[str]:
    folder = copy_of_bundled(place)
    (place / "models--X/snapshots").mkdir(parents=True)
    folder.rename(place / "models--X/snapshots/abc123")
    return inspect(place / "models--X")


NAMES = [
    called("absent", "absent does not exist"),
    called("", "contains no config.json|cannot"),
    called("x" * 5000, "cannot be looked into: File name too long"),
    called("a\0b", "does not exist|cannot be looked into"),
    called("/etc/passwd", "is a file"),
    called("/proc/self", "contains no config.json"),
    called("BLIP3o/BLIP3o-NEXT-GRPO-TexT-3B", "does not exist"),
    called("https://example.com/model", "does not exist"),
    called("~nobody-of-this-name/x", "does not exist"),
    called("tiny", r"must contain transformer/config\.json", "--diffusion-folder", "y" * 5000),
    called("tiny", r"must contain transformer/config\.json", "--diffusion-folder", "a\0b"),
    in_a_folder("模型 папка ünï 🦊"),
    in_a_folder(b"\xc4\xa3\xd0\xcd"),
    in_a_folder("blip3o-next-0.1.0 \x1b[31mred"),
    Attack("the folder of a hub cache", hub_cache, r"Choose .*models--X/snapshots/abc123"),
]


REST = [*LANGUAGE[2:], *IDS[1:], *DIFFUSION[1:-1]]


@attacks(
    [
        Attack("a copy that is fine", lambda place: generate(copy_of_bundled(place)), None),
        replaced("lists in lists", NESTED, lambda path: path.write_text("[" * 100_000)),
        *(LANGUAGE[0], LANGUAGE[1], IDS[0], DIFFUSION[0], DIFFUSION[-1], NAMES[0]),
    ],
    slow=[*FILES, *REST[::3], *NAMES[1:]],
    long=[*REST[1::3], *REST[2::3]],
)
def test_a_bad_checkpoint_is_refused_in_words(attack, tmp_path):
    """Catches tracebacks, hangs and dead processes for checkpoints from the internet, and values believed unseen."""
    check(attack, tmp_path)
