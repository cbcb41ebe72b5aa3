"""Special tokens, image codes <-> token ids, and the prompt strings the model was trained on.

An image code `c` in [0, K) is the token `image_start + c`. User text is plain text by default: a prompt that spells
`<|im_end|>` or `<I7>` is read letter by letter. The authors' tokenizer call parses those as tokens; `parse_special`
brings that back.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from .errors import Blip3oError

SYSTEM_PROMPT = "You are a helpful assistant."
TEXT_TO_IMAGE = "Please generate image based on the following caption: {prompt}"

_CONFIG_FIELDS = {
    "image_start_tag": "image_start_tag_id",
    "image_end_tag": "image_end_tag_id",
    "scale_start": "scale_start_token_id",
    "image_start": "image_start_token_id",
    "num_codes": "num_image_tokens",
    "size": "vocab_size",
}


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of one checkpoint, all read from its config files (reference.md 2.2)."""

    image_start_tag: int  # <im_start>
    image_end_tag: int  # <im_end>; sampling it does not end the picture
    scale_start: int  # <S0>
    image_start: int  # <I0>
    num_codes: int  # K
    size: int  # rows of the embedding
    stop: tuple[int, ...]  # ids that end generation when text tokens may be sampled
    pad: int

    @classmethod
    def from_config(cls, config: dict, generation: dict, where: Path) -> "Vocabulary":
        missing = [name for name in _CONFIG_FIELDS.values() if not isinstance(config.get(name), int)]
        if missing:
            raise Blip3oError(
                f"{where / 'config.json'} lacks {', '.join(missing)}: these fields name the image tokens, and every "
                "BLIP3o-NEXT checkpoint has them. Copy config.json again from where the checkpoint came from."
            )
        stop = generation.get("eos_token_id")
        stop = config.get("eos_token_id") if stop is None else stop
        stop = tuple(stop) if isinstance(stop, list) else (() if stop is None else (stop,))
        pad = generation.get("pad_token_id", config.get("pad_token_id"))
        if pad is None:
            pad = stop[-1] if stop else 0
        ids = cls(**{ours: config[theirs] for ours, theirs in _CONFIG_FIELDS.items()}, stop=stop, pad=pad)
        if not 0 <= ids.image_start <= ids.image_start + ids.num_codes <= ids.size:
            raise Blip3oError(
                f"{where / 'config.json'}: image tokens {ids.image_start}..{ids.image_start + ids.num_codes - 1} do "
                f"not fit a vocabulary of {ids.size}. The file does not belong to these weights; copy it again."
            )
        return ids


class PromptEncoder:
    """Prompt text -> token ids, with the checkpoint's own `tokenizer.json`."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, limit: int):
        """`limit`: the longest prompt in tokens, scale token included (the tokenizer's `model_max_length`)."""
        from tokenizers import Tokenizer

        self.vocabulary, self.limit = vocabulary, limit
        try:
            text = _tokenizer_json(folder)
            self._full = Tokenizer.from_str(text)
            self._plain = Tokenizer.from_str(json.dumps({**json.loads(text), "added_tokens": []}))
        except Blip3oError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise Blip3oError(
                f"{folder / 'tokenizer.json'} cannot be read: {error}. Copy it from where the checkpoint came from."
            ) from error
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:8]
        for tokenizer in (self._full, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._chat_start, self._chat_end = self._special("<|im_start|>"), self._special("<|im_end|>")
        expected = {
            "<im_start>": vocabulary.image_start_tag,
            "<S0>": vocabulary.scale_start,
            "<I0>": vocabulary.image_start,
            f"<I{vocabulary.num_codes - 1}>": vocabulary.image_start + vocabulary.num_codes - 1,
        }
        for token, id in expected.items():
            if self._full.token_to_id(token) != id:
                raise Blip3oError(
                    f"The tokenizer in {folder} gives {token} the id {self._full.token_to_id(token)}, config.json says "
                    f"{id}: it lacks the image tokens of this checkpoint. Copy tokenizer.json from the checkpoint."
                )

    @property
    def closing(self) -> list[int]:
        """What follows the image tokens in a training text: `<im_end><|im_end|>` and a line feed."""
        return [self.vocabulary.image_end_tag, self._chat_end, *self._text("\n")]

    def _special(self, token: str) -> int:
        id = self._full.token_to_id(token)
        if id is None:
            raise Blip3oError(f"The tokenizer has no {token} token; copy tokenizer.json from the checkpoint.")
        return id

    def _text(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode(self, prompt: str, parse_special: bool = False) -> list[int]:
        """The whole text-to-image prompt, through `<S0>`, as ids (reference.md 2.1).

        Raises Blip3oError when it is longer than `limit`; the authors cut it and lose `<im_start><S0>`.
        """
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Blip3oError(
                f"The prompt holds half a character at position {error.start}: {prompt[error.start]!r}. Delete it or "
                "use the whole character."
            ) from None
        user = TEXT_TO_IMAGE.format(prompt=prompt)
        if parse_special:
            string = (
                f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
                "<|im_start|>assistant\n<im_start><S0>"
            )
            ids = self._full.encode(string, add_special_tokens=False).ids
        else:
            ids = []
            for role, content in (("system", SYSTEM_PROMPT), ("user", user)):
                ids += [self._chat_start, *self._text(f"{role}\n{content}"), self._chat_end, *self._text("\n")]
            ids += [self._chat_start, *self._text("assistant\n")]
            ids += [self.vocabulary.image_start_tag, self.vocabulary.scale_start]
        if len(ids) > self.limit:
            raise Blip3oError(
                f"The prompt is {len(ids)} tokens long, this model takes {self.limit}. Shorten it by about "
                f"{len(ids) - self.limit} tokens; it starts {prompt[:60]!r}."
            )
        return ids


def _tokenizer_json(folder: Path) -> str:
    """The fast tokenizer's JSON; made by transformers when only vocab.json and merges.txt are there."""
    path = folder / "tokenizer.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if not (folder / "vocab.json").is_file():
        raise Blip3oError(f"{folder} has no tokenizer.json; copy it from where the checkpoint came from.")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.to_str()
