"""How well an image fits its prompt, by the similarity of a CLIP or SigLIP model that the user brings.

transformers' own classes on a folder of this machine: no download, no code from the folder, no pickles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import Blip3oError, did_you_mean, first_line, shown
from .folders import folder_identity, model_folder, torch_device

# What is made of the cosine: its range, and a name.
SCORES = {"cosine": (-1.0, 1.0), "clipscore": (0.0, 2.5), "logit": (-float("inf"), float("inf"))}
CLIPSCORE = 2.5  # Hessel et al. 2021, CLIPScore
_WHAT = "a CLIP or SigLIP model"


class ClipReward:
    """The cosine of image and prompt; with `score` "clipscore" 2.5 times that and at least 0, with "logit" the model's
    own number: the cosine times its scale, plus SigLIP's bias. PickScore is "logit" of its model.
    """

    name = "clip"

    def __init__(self, model: str, score: str = "cosine", device: str = "cpu", batch: int = 16):
        if score not in SCORES:
            hint = did_you_mean(score, list(SCORES)) if isinstance(score, str) else ""
            raise Blip3oError(f"score is {shown(repr(score))}. {hint or 'Use cosine, clipscore or logit.'}")
        if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 4096:
            raise Blip3oError(f"batch is {shown(repr(batch))}. Give a whole number from 1 to 4096, in images.")
        self.folder, self.device = model_folder(model, _WHAT), torch_device(device)
        self.score, self.batch = score, batch
        self.range = SCORES[score]
        self.version = f"1 ({score}, {folder_identity(self.folder)})"
        self._loaded: _Loaded | None = None

    def __getstate__(self) -> dict:  # for other processes, each of which loads the model itself
        return {**vars(self), "_loaded": None}

    @torch.no_grad()
    def __call__(
        self,
        images: Sequence[torch.Tensor],
        prompts: Sequence[str],
        references: Sequence[Sequence[torch.Tensor]],
        masks: Sequence[torch.Tensor | None],
        meta: Sequence[Mapping[str, Any]],
    ) -> list[float | None]:
        if self._loaded is None:
            self._loaded = _load(self.folder, self.device)
        values: list[float | None] = []
        for first in range(0, len(images), self.batch):
            rows = slice(first, first + self.batch)
            values += self._values(self._loaded, images[rows], prompts[rows])
        return values

    def _values(self, loaded: "_Loaded", images: Sequence[torch.Tensor], prompts: Sequence[str]) -> list[float]:
        inputs = loaded.processor(
            text=list(prompts),
            images=[_as_pil(image) for image in images],
            return_tensors="pt",
            padding="max_length",  # SigLIP was trained so; CLIP's mask hides it
            max_length=loaded.longest,
            truncation=True,
        )
        found = loaded.network(**inputs.to(self.device))
        ours, theirs = (
            torch.nn.functional.normalize(one.float(), dim=-1) for one in (found.image_embeds, found.text_embeds)
        )
        cosine = (ours * theirs).sum(-1)
        if self.score == "clipscore":
            cosine = CLIPSCORE * cosine.clamp(0)
        elif self.score == "logit":
            cosine = cosine * loaded.network.logit_scale.float().exp() + getattr(loaded.network, "logit_bias", 0.0)
        return cosine.tolist()


@dataclass(frozen=True)
class _Loaded:
    network: Any
    processor: Any
    longest: int  # tokens of a prompt; what follows is cut off


def _load(folder: Path, device: torch.device) -> _Loaded:
    from transformers import AutoModel, AutoProcessor

    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        network, report = AutoModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **safe)
        processor = AutoProcessor.from_pretrained(folder, **safe)
    except Exception as error:  # of many kinds: transformers checks little
        reason = f"{type(error).__name__}: {shown(first_line(error))}"
        raise Blip3oError(
            f"The model in {shown(str(folder))} cannot be loaded: {reason}. Give a complete folder of a CLIP or SigLIP "
            "model, with its weights, image processor and tokenizer."
        ) from error
    if not (hasattr(network, "get_image_features") and hasattr(network, "logit_scale")):
        raise Blip3oError(
            f"{shown(str(folder))} holds a {type(network).__name__}, which does not compare images with texts. Give a "
            "CLIP or SigLIP model."
        )
    if missing := sorted(report["missing_keys"]):
        raise Blip3oError(
            f"The weights in {shown(str(folder))} lack {len(missing)} tensors, the first {shown(missing[0])}. Fetch "
            "the model again."
        )
    return _Loaded(network.eval().to(device), processor, network.config.text_config.max_position_embeddings)


def _as_pil(image: torch.Tensor):
    from PIL import Image

    return Image.fromarray((image.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
