"""Prompt text -> token ids, in the templates that the model was trained on.

User text is plain text by default: a prompt that spells `<|im_end|>` or `<I7>` is read letter by letter. The authors'
tokenizer call parses those as tokens; `parse_special` brings that back.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from ..errors import Blip3oError, first_line, shown
from .tokenizer_file import read_tokenizer
from .vocabulary import Vocabulary, tokenizer_digest

SYSTEM_PROMPT = "You are a helpful assistant."
TEXT_TO_IMAGE = "Please generate image based on the following caption: {prompt}"
EDIT = "Please edit {images} according to the following instruction: {instruction}.\n"
ONE_REFERENCE, SEVERAL_REFERENCES = "this image", "these images"
# Characters that are read of a prompt for each token it may have. English has about 4, the longest tokens are spaces.
CHARACTERS_PER_TOKEN = 32
MOST_CHARACTERS = 2**20  # of any prompt; the tokenizer gives up at 10 million spaces


class PromptEncoder:
    """Prompts and edit instructions -> token ids, with the checkpoint's own `tokenizer.json`."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, limit: int):
        """`limit`: the longest prompt in tokens, scale token included (the tokenizer's `model_max_length`).

        Raises Blip3oError when the tokenizer is missing, damaged, or made for a different checkpoint.
        """
        self.vocabulary, self.limit, self.several_references = vocabulary, limit, SEVERAL_REFERENCES
        self._path = folder / "tokenizer.json"
        content = read_tokenizer(folder, vocabulary.size)
        self._full = self._build(content)
        self._plain = self._build({**content, "added_tokens": []})
        self.digest = tokenizer_digest(content)
        chat_start, chat_end = self._special("<|im_start|>"), self._special("<|im_end|>")
        line = self._text("\n")
        system = [chat_start, *self._text(f"system\n{SYSTEM_PROMPT}"), chat_end, *line]
        self._before_user = [*system, chat_start]
        assistant = [chat_start, *self._text("assistant\n")]
        self._after_user = [chat_end, *line, *assistant, vocabulary.image_start_tag, vocabulary.scale_start]
        # What follows the image tokens in a training text.
        self.closing = [vocabulary.image_end_tag, chat_end, *line]
        self._check_ids(content["added_tokens"])

    def _build(self, content: dict):
        """The library's tokenizer. Its Rust code raises bare Exceptions, and where it panics a BaseException."""
        from tokenizers import Tokenizer

        with self._answered("cannot be used"):
            tokenizer = Tokenizer.from_str(json.dumps(content))
        return tokenizer

    @contextlib.contextmanager
    def _answered(self, what: str) -> Iterator[None]:
        """Turns whatever the tokenizer raises into a Blip3oError. As a BaseException it would end a server's worker."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            reason = first_line(error).rstrip(".")
            raise Blip3oError(
                f"The tokenizer {self._path} {what}: {reason}. Copy tokenizer.json again from where the checkpoint "
                "came from."
            ) from error

    def _check_ids(self, added: list[dict]) -> None:
        """Raise Blip3oError unless all added tokens have their own ids, the image tokens those of config.json."""
        ids = self.vocabulary
        expected = {
            "<im_start>": ids.image_start_tag,
            "<S0>": ids.scale_start,
            "<I0>": ids.image_start,
            f"<I{ids.num_codes - 1}>": ids.image_start + ids.num_codes - 1,
        }
        for entry in added:  # the library numbers one anew where the ids do not follow on each other
            found = self._full.token_to_id(entry["content"])
            if found not in (entry["id"], None):
                raise Blip3oError(
                    f"The tokenizer {self._path} gives {shown(entry['content'], 60)!r} the id {entry['id']}, but its "
                    f"other tokens make it {found}. Copy tokenizer.json again from where the checkpoint came from."
                )
        for token, id in expected.items():
            found = self._full.token_to_id(token)
            if found != id:
                has = f"gives {token} the id {found}" if found is not None else f"has no token {token}"
                raise Blip3oError(
                    f"The tokenizer {self._path} {has}, config.json says {id}. It lacks the image tokens of this "
                    "checkpoint. Copy tokenizer.json again from where the checkpoint came from."
                )

    def _special(self, token: str) -> int:
        id = self._full.token_to_id(token)
        if id is None:
            raise Blip3oError(
                f"The tokenizer {self._path} has no token {token}. Copy it again from where the checkpoint came from."
            )
        return id

    def is_token(self, word: str) -> bool:
        """Whether the tokenizer has the word as one token, in exactly this spelling."""
        return self._plain.token_to_id(word) is not None

    def _text(self, text: str) -> list[int]:
        return self._ids(self._plain, text)

    def _ids(self, tokenizer, text: str) -> list[int]:
        with self._answered("failed on this prompt"):
            return tokenizer.encode(text, add_special_tokens=False).ids

    def encode(self, prompt: str, parse_special: bool = False) -> list[int]:
        """The whole text-to-image prompt, through `<S0>`, as ids (docs/reference.md 2.1).

        Raises Blip3oError when it is longer than `limit`; the authors cut it and lose `<im_start><S0>`.
        """
        ids = self._chat(prompt, TEXT_TO_IMAGE.format(prompt=prompt), [], parse_special)
        if len(ids) > self.limit:
            raise self._too_long(prompt, ids)
        return ids

    def encode_edit(
        self, instruction: str, references: torch.Tensor, parse_special: bool = False, as_features: bool = False
    ) -> list[int]:
        """The prompt of an edit, with the codes (R, T) of all references as image tokens in one block.

        `as_features`: placeholders in place of the tokens, for the image tokenizer's features to be put there.
        """
        images = self.several_references if len(references) > 1 else ONE_REFERENCE
        user = EDIT.format(images=images, instruction=instruction)
        tokens = (references.flatten() + self.vocabulary.image_start).tolist()
        if as_features:
            tokens = [self._special("<|image_pad|>")] * len(tokens)
        block = [self._special("<|vision_start|>"), *tokens, self._special("<|vision_end|>")]
        ids = self._chat(instruction, user, block, parse_special)
        if len(ids) > self.limit:
            raise self._too_long_edit(instruction, ids, len(block), len(references))
        return ids

    @property
    def tokens_after_references(self) -> int:
        """Ids behind the references' tokens in every prompt of `encode_edit`."""
        return 1 + len(self._after_user)

    def reference_span(self, ids: list[int], tokens: int) -> slice:
        """Where the `tokens` image tokens of the references lie in a prompt of `encode_edit`."""
        end = len(ids) - self.tokens_after_references
        return slice(end - tokens, end)

    def _chat(self, prompt: str, user: str, block: list[int], parse_special: bool) -> list[int]:
        """The ids of a whole chat. `user`: the user's turn, which holds `prompt`; `block`: ids at the end of it."""
        most = min(self.limit * CHARACTERS_PER_TOKEN, MOST_CHARACTERS)
        if len(prompt) > most:
            raise Blip3oError(
                f"The prompt has {len(prompt):,} characters. This model takes {self.limit:,} tokens, for which at most "
                f"{most:,} characters are read. Shorten the prompt. It starts with {prompt[:60]!r}."
            )
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Blip3oError(
                f"The prompt contains half a character at position {error.start}: {prompt[error.start]!r}. Delete it, "
                "or type the whole character."
            ) from None
        if parse_special:
            text = f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{user}"
            ids = self._ids(self._full, text)
        else:
            ids = [*self._before_user, *self._text(f"user\n{user}")]
        return [*ids, *block, *self._after_user]

    def _too_long(self, prompt: str, ids: list[int]) -> Blip3oError:
        return Blip3oError(
            f"The prompt is {len(ids)} tokens long; this model takes at most {self.limit}. Shorten it by about "
            f"{len(ids) - self.limit} tokens. It starts with {prompt[:60]!r}."
        )

    def _too_long_edit(self, instruction: str, ids: list[int], block: int, references: int) -> Blip3oError:
        over, each = len(ids) - self.limit, (block - 2) // references
        size = (
            f"The prompt is {len(ids)} tokens long, {block} of them for {references} reference images of {each} "
            f"tokens; this model takes at most {self.limit}."
        )
        if over > len(ids) - block:  # no instruction is short enough
            return Blip3oError(f"{size} Use {-(-over // each)} fewer images, or combine them into one image.")
        return Blip3oError(
            f"{size} Shorten the instruction by about {over} tokens. It starts with {instruction[:60]!r}."
        )
