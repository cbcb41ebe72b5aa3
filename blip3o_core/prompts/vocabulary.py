"""Special tokens, image codes <-> token ids, and the prompt strings the model was trained on.

An image code `c` in [0, K) is the token `image_start + c`. User text is plain text by default: a prompt that spells
`<|im_end|>` or `<I7>` is read letter by letter. The authors' tokenizer call parses those as tokens; `parse_special`
brings that back.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import Blip3oError

SYSTEM_PROMPT = "You are a helpful assistant."
TEXT_TO_IMAGE = "Please generate image based on the following caption: {prompt}"
EDIT = "Please edit {these} according to the following instruction: {instruction}.\n"

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


@dataclass(frozen=True)
class CodesId:
    """What image codes mean. Image tokens travel only between models whose ids agree, see `understands`.

    An image tokenizer that was loaded from its own file knows its codebook alone. A checkpoint without an image
    tokenizer knows everything but the codebook.
    """

    num_codes: int | None = None  # K
    image_start: int | None = None  # token id of code 0
    grid: tuple[int, int] | None = None  # (H, W)
    tokenizer: str | None = None  # digest of tokenizer.json
    codebook: str | None = None  # digest of the codebook, see `image_tokenizer.codebook_digest`

    def understands(self, other: "CodesId") -> bool:
        """Whether a language model with this id may read codes with the other one."""
        if other.num_codes is None:
            return self.codebook in (None, other.codebook)
        return self == other

    def __str__(self) -> str:
        codebook = f"codebook {self.codebook or 'unknown'}"
        if self.num_codes is None:
            return codebook
        height, width = self.grid
        return (
            f"{self.num_codes} codes from token {self.image_start} on {height}x{width}, tokenizer {self.tokenizer}, "
            f"{codebook}"
        )


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
        line = self._text("\n")
        system = [self._chat_start, *self._text(f"system\n{SYSTEM_PROMPT}"), self._chat_end, *line]
        self._before = [*system, self._chat_start]
        self._after = [self._chat_end, *line, self._chat_start, *self._text("assistant\n"),
                       vocabulary.image_start_tag, vocabulary.scale_start]  # fmt: skip
        # What follows the image tokens in a training text.
        self.closing = [vocabulary.image_end_tag, self._chat_end, *line]
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
        return self._chat(prompt, TEXT_TO_IMAGE.format(prompt=prompt), [], parse_special)

    def encode_edit(
        self,
        instruction: str,
        references: torch.Tensor,
        parse_special: bool = False,
        plural: bool = True,
        as_features: bool = False,
    ) -> list[int]:
        """The prompt of an edit, with the codes (R, T) of all references as image tokens in one block.

        Several references are "these images", as the authors train; their inference says "this image" (`plural` False).
        `as_features`: placeholders instead, for features to be put in their place.
        """
        these = "these images" if plural and len(references) > 1 else "this image"
        user = EDIT.format(these=these, instruction=instruction)
        tokens = (references.flatten() + self.vocabulary.image_start).tolist()
        if as_features:
            tokens = [self._special("<|image_pad|>")] * len(tokens)
        block = [self._special("<|vision_start|>"), *tokens, self._special("<|vision_end|>")]
        return self._chat(instruction, user, block, parse_special, len(references))

    @property
    def behind_references(self) -> int:
        """Ids behind the references' tokens in every prompt of `encode_edit`."""
        return 1 + len(self._after)

    def reference_span(self, ids: list[int], tokens: int) -> slice:
        """Where the `tokens` image tokens of the references lie in a prompt of `encode_edit`."""
        end = len(ids) - self.behind_references
        return slice(end - tokens, end)

    def _chat(self, prompt: str, user: str, block: list[int], parse_special: bool, pictures: int = 0) -> list[int]:
        """`prompt` is what the user wrote of `user`; `block` are the ids behind it, those of `pictures` references."""
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Blip3oError(
                f"The prompt holds half a character at position {error.start}: {prompt[error.start]!r}. Delete it or "
                "use the whole character."
            ) from None
        if parse_special:
            text = f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{user}"
            ids = self._full.encode(text, add_special_tokens=False).ids
        else:
            ids = [*self._before, *self._text(f"user\n{user}")]
        ids += [*block, *self._after]
        if len(ids) > self.limit:
            over, remedy = len(ids) - self.limit, "Shorten it"
            described = f"The prompt is {len(ids)} tokens long"
            if pictures:
                each = (len(block) - 2) // pictures
                described += f", {len(block)} of them for {pictures} reference pictures of {each} tokens"
                if over > len(ids) - len(block):
                    raise Blip3oError(
                        f"{described}; this model takes {self.limit}: use {-(-over // each)} fewer, or put them into "
                        "one picture."
                    )
                remedy = "Shorten the instruction"
            raise Blip3oError(
                f"{described}, this model takes {self.limit}. {remedy} by about {over} tokens; it starts "
                f"{prompt[:60]!r}."
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
