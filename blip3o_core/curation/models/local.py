"""Texts by a model of this machine: transformers' own classes on a folder. No download, no code of the folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ...errors import Blip3oError, first_line, shown
from ...rewards.folders import folder_identity, model_folder, torch_device
from ...settings import Count, Settings, Text
from .writers import PROMPTS, Ask, Written

_GIVE = "Give a complete folder of an image-to-text model, with its weights, image processor and tokenizer."


class LocalOptions(Settings):
    guide: ClassVar[str] = "docs/curation_models.md"
    advice: ClassVar[dict[str, str]] = {"model": "It is the folder of a model that transformers saved."}

    model: Text
    device: Text = "cpu"
    most_tokens: Annotated[Count, Field(le=100_000)] = 256  # of a text


class LocalWriter:
    """Always the likeliest next token, so the same image gets the same text.

    A model whose folder has a chat template is asked as a chat model is. Others, such as BLIP, get the image alone.
    """

    def __init__(self, kinds: Sequence[str], **options: Any):
        self.options = LocalOptions(**options)
        self.folder = model_folder(self.options.model, "an image-to-text model")
        self.device = torch_device(self.options.device)
        if len(kinds) > 1 and not _has_template(self.folder):
            raise Blip3oError(
                f"{shown(str(self.folder))} has no chat template: its model takes no question and writes one kind of "
                f"text. `write` has {len(kinds)}. Name one, or use a model that chats."
            )
        self.version = f"1 ({folder_identity(self.folder)}, {self.options.most_tokens} tokens)"
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, asks: Sequence[Ask]) -> list[Written | Exception]:
        if self._loaded is None:
            self._loaded = self._load()
        found: list[Written | Exception] = []
        for ask in asks:
            try:
                found.append(self._write(ask, *self._loaded))
            except Exception as error:  # of many kinds: each model has its own code
                found.append(error)
        return found

    def _write(self, ask: Ask, network: Any, processor: Any) -> Written:
        import torch

        (image,) = ask.images()
        if getattr(processor, "chat_template", None):
            content = [{"type": "image", "image": image}, {"type": "text", "text": PROMPTS[ask.kind]}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            inputs = processor(images=image, return_tensors="pt")
        inputs = inputs.to(self.device)
        with torch.inference_mode():
            ids = network.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.options.most_tokens)[0]
        asked = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        if asked and ids[:asked].tolist() == inputs["input_ids"][0].tolist():
            ids = ids[asked:]
        return Written(
            processor.decode(ids, skip_special_tokens=True), _is_cut(ids, network, processor, self.options.most_tokens)
        )

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            network, report = AutoModelForImageTextToText.from_pretrained(
                self.folder, use_safetensors=True, output_loading_info=True, **safe
            )
            processor = AutoProcessor.from_pretrained(self.folder, **safe)
        except Exception as error:  # of many kinds: transformers checks little
            reason = f"{type(error).__name__}: {shown(first_line(error))}"
            raise Blip3oError(f"The model in {shown(str(self.folder))} cannot be loaded: {reason}. {_GIVE}") from error
        if missing := sorted(report["missing_keys"]):
            raise Blip3oError(
                f"The weights in {shown(str(self.folder))} lack {len(missing)} tensors, the first {shown(missing[0])}. "
                "Fetch the model again."
            )
        return network.eval().to(self.device), processor


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    for name in ("processor_config.json", "tokenizer_config.json"):
        try:
            if "chat_template" in json.loads((folder / name).read_bytes()):
                return True
        except (OSError, ValueError, TypeError):
            continue
    return False


def _is_cut(ids: Any, network: Any, processor: Any, most: int) -> bool:
    """Whether a model stopped for its limit, and not because it was done."""
    said = network.generation_config.eos_token_id
    tokenizer = getattr(processor, "tokenizer", processor)
    ends = [*(said if isinstance(said, list) else [said]), tokenizer.eos_token_id, tokenizer.sep_token_id]
    return len(ids) >= most and int(ids[-1]) not in ends
