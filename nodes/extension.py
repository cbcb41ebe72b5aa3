"""The list of nodes, as ComfyUI asks for it. Ids are forever: saved workflows name them."""

import logging

from . import requirements
from .comfy_api import ComfyExtension
from .condition import HiddenStateConditioner
from .conditioning_files import LoadConditioning, SaveConditioning
from .curate import CurateImages
from .draft import ChooseDraft
from .evaluate import EvaluationGrid, PromptList
from .generate import TokenGenerator
from .host import folders, reward_files
from .load import ImageTokenizerLoader, Loader
from .lora import LoraLoader
from .one_click import ImageEdit, TextToImage
from .reference import EditReferenceEncoder, MaskedEdit
from .resample import ResampleTokens
from .sample import DiffusionSampler, Scheduler
from .scores import PickBest, ScoreImages
from .token_files import LoadTokens, SaveTokens
from .tokens import CompareTokens, SpliceTokens, ViewTokens
from .train import TrainLora, TrainLoraOnImages


class Extension(ComfyExtension):
    async def on_load(self):
        folders.register()
        reward_files.register()
        missing = requirements.problem()
        if missing:
            logging.getLogger(__name__).error(missing)

    async def get_node_list(self):
        return [
            Loader, ImageTokenizerLoader, TokenGenerator, ResampleTokens, EditReferenceEncoder, HiddenStateConditioner,
            DiffusionSampler, Scheduler, MaskedEdit, LoraLoader,
            SaveTokens, LoadTokens, SpliceTokens, CompareTokens, ViewTokens, ChooseDraft,
            ScoreImages, PickBest, PromptList, EvaluationGrid, TrainLora, TrainLoraOnImages, CurateImages,
            SaveConditioning, LoadConditioning, TextToImage, ImageEdit,
        ]  # fmt: skip
