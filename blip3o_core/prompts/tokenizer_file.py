"""A checkpoint's tokenizer.json, checked before anything is built from it.

The tokenizers library runs the patterns and replacements in that file on every prompt, in code that nothing can
interrupt: one pattern that never ends, or a replacement that multiplies text, stops the whole process. So only the
parts that Qwen's tokenizer and the bundled model's consist of are taken, and every id must be a row of the embedding.
"""

import re
from pathlib import Path
from typing import Any

from ..errors import Blip3oError, shown
from ..files import parse_json, read_json, read_lines, read_text

# Linear on every text, as long as a text has less than 10 million spaces in a row: the library gives up there.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The bundled model's: phrases that are written out, then quoted text, words, digits and marks.
PLAIN_WORDS = r'"[^"\s]*"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]'
_PHRASES = re.compile(r"(?:(?:[\w :,;'\"-]|\\[.n])+\|)*")
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_QWEN_SPLIT = {"type": "Split", "pattern": {"Regex": QWEN_WORDS}, "behavior": "Isolated", "invert": False}

FILE_LIMIT = 64 * 2**20  # bytes; the published one has 11 MB
_LONGEST_WORD = 1000  # characters; WordPiece takes their square
_COPY = "Copy tokenizer.json again from where the checkpoint came from."


def read_tokenizer(folder: Path, ids: int) -> dict:
    """What tokenizer.json of a checkpoint holds, without truncation, padding and post-processor: prompts need none.

    vocab.json and merges.txt do as well. `ids`: rows of the embedding. Raises Blip3oError for anything but a tokenizer
    whose parts are known here.
    """
    path = folder / "tokenizer.json"
    if path.exists():
        content = parse_json(read_text(path, _COPY, FILE_LIMIT), str(path), _COPY)
    elif (folder / "vocab.json").exists():
        content, path = _from_vocab(folder), folder / "vocab.json"
    else:
        raise Blip3oError(
            f"{folder} has no tokenizer.json, and no vocab.json in its place. Copy tokenizer.json from where the "
            "checkpoint came from."
        )
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise Blip3oError(f"The tokenizer {path} has no model, so it contains no words. {_COPY}")
    parts = {name: content.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")}
    _check_parts(path, parts)
    return {
        "version": "1.0",
        **parts,
        "model": _model(path, content["model"], ids),
        "added_tokens": _added_tokens(path, content.get("added_tokens"), ids),
    }


def _check_parts(path: Path, parts: dict) -> None:
    for name, known in (("normalizer", ("NFC", "Lowercase")), ("decoder", ("ByteLevel", "WordPiece"))):
        kind = _type(parts[name])
        if parts[name] is not None and kind not in known:
            raise _unknown(path, name, kind, known)
    if not (_is_qwen_split(parts["pre_tokenizer"]) or _is_plain_split(parts["pre_tokenizer"])):
        raise _unknown(path, "pre_tokenizer", parts["pre_tokenizer"], ("Qwen's pattern", "the bundled model's"))


def _is_qwen_split(part: Any) -> bool:
    steps = part.get("pretokenizers") if _type(part) == "Sequence" else None
    if not isinstance(steps, list) or len(steps) != 2 or not isinstance(steps[1], dict):
        return False
    # trim_offsets changes positions in the text, which are not used here.
    return steps[0] == _QWEN_SPLIT and {**steps[1], "trim_offsets": True} == _BYTES


def _is_plain_split(part: Any) -> bool:
    if _type(part) != "Split" or part.get("behavior") != "Removed" or part.get("invert") is not True:
        return False
    pattern = part["pattern"].get("Regex") if isinstance(part.get("pattern"), dict) else None
    if not isinstance(pattern, str) or not pattern.endswith(PLAIN_WORDS):
        return False
    return bool(_PHRASES.fullmatch(pattern.removesuffix(PLAIN_WORDS)))


def _model(path: Path, model: dict, ids: int) -> dict:
    vocab, kind = model.get("vocab"), model.get("type")
    if kind not in ("BPE", "WordPiece"):
        raise _unknown(path, "model", kind, ("BPE", "WordPiece"))
    if not isinstance(vocab, dict) or not vocab:
        raise Blip3oError(f"The tokenizer {path} has no words: its vocab is {shown(vocab)}. {_COPY}")
    for word, id in vocab.items():
        if type(id) is not int or not 0 <= id < ids:
            raise _outside(path, word, id, ids)
    unknown = model.get("unk_token")
    if unknown is not None and (not isinstance(unknown, str) or unknown not in vocab):
        raise Blip3oError(f"The tokenizer {path} has the unk_token {shown(unknown)}, which its vocab lacks. {_COPY}")
    if kind == "WordPiece":
        longest = model.get("max_input_chars_per_word", 100)
        if type(longest) is not int or not 0 < longest <= _LONGEST_WORD:
            raise Blip3oError(
                f"The tokenizer {path} has the max_input_chars_per_word {shown(longest)}; it must be from 1 to "
                f"{_LONGEST_WORD}. {_COPY}"
            )
        names = ("type", "vocab", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word")
        return {name: model[name] for name in names if name in model}
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise Blip3oError(f"The tokenizer {path} has the {name} {shown(model[name])}; Qwen's has none. {_COPY}")
    flags = {name: model.get(name) is True for name in ("fuse_unk", "byte_fallback", "ignore_merges")}
    return {"type": kind, "unk_token": unknown, "vocab": vocab, "merges": model.get("merges"), **flags}


def _added_tokens(path: Path, tokens: Any, ids: int) -> list[dict]:
    if not isinstance(tokens, list):
        raise Blip3oError(f"The tokenizer {path} has no added_tokens. {_COPY}")
    for token in tokens:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise Blip3oError(f"The tokenizer {path} has {shown(token)} among its added_tokens. {_COPY}")
        if type(token.get("id")) is not int or not 0 <= token["id"] < ids:
            raise _outside(path, token["content"], token.get("id"), ids)
    return tokens


def _from_vocab(folder: Path) -> dict:
    """What the files of the slow tokenizer mean: Qwen's normalizer and pattern around their words and merges."""
    merges = folder / "merges.txt"
    lines = read_lines(merges, "Copy tokenizer.json, or merges.txt, from where the checkpoint came from.")
    config, more = folder / "tokenizer_config.json", folder / "added_tokens.json"
    added = read_json(config, _COPY).get("added_tokens_decoder") if config.exists() else None
    if added is None:
        added = {id: {"content": word} for word, id in read_json(more, _COPY).items()} if more.exists() else {}
    if not isinstance(added, dict) or not all(isinstance(token, dict) for token in added.values()):
        raise Blip3oError(f"added_tokens_decoder in {config} must be a mapping of ids to tokens. {_COPY}")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokens = [{**flags, **token, "id": _whole(id)} for id, token in added.items()]
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_QWEN_SPLIT, _BYTES]},
        "decoder": _BYTES,
        "model": {
            "type": "BPE",
            "vocab": read_json(folder / "vocab.json", _COPY),
            "merges": [line for line in lines if line and not line.startswith("#version")],
        },
        "added_tokens": sorted(tokens, key=lambda token: str(token["id"]).zfill(20)),
    }


def _whole(id: Any) -> Any:
    return int(id) if isinstance(id, str) and re.fullmatch(r"[0-9]{1,18}", id) else id


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _unknown(path: Path, name: str, found: Any, known: tuple[str, ...]) -> Blip3oError:
    return Blip3oError(
        f"The tokenizer {path} has the {name} {shown(found)}. Only {' and '.join(known)} are allowed there: others can "
        f"stop the whole program while they read a prompt. {_COPY}"
    )


def _outside(path: Path, word: str, id: Any, ids: int) -> Blip3oError:
    return Blip3oError(
        f"The tokenizer {path} gives {shown(word, 60)!r} the id {shown(id)}, but this model has the ids 0 to "
        f"{ids - 1}. It belongs to a different checkpoint. {_COPY}"
    )
