"""The policy that TRL trains: transformers' Qwen3ForCausalLM on the parameters that our own decoder generates with.

- Only image tokens can follow `<S0>`. A fixed bias on the output layer masks all others in TRL's log-probabilities,
  entropies and KL; our decoder computes image tokens alone. The bias is not saved with the checkpoint.
- Connectors are not part of the policy: its parameters have their published names, and all that are not `frozen` learn.
- With LoRA, peft's adapted layers stand in both networks: rollouts run through the very modules that are trained. So
  they see every update exactly, also in bfloat16, where a small change that is merged into a weight would be rounded
  away. The checkpoint's own weights are never written to, and there is no second copy of them. The price is that
  rollouts cannot use the decoder's quicker engines, which read weights as they are stored.
"""

import copy
import re
from collections.abc import Sequence

import torch
from torch import nn

from ...errors import Blip3oError, shown
from ...models.language import LanguageModel
from ...prompts.vocabulary import Vocabulary
from ..config import Lora
from ..joint_model import start_adapters
from ..save import trained_tensors

MASKED_LOGIT = -1e4  # as a logit; infinity would make the entropy NaN
_PEFT = "base_model.model."  # before the names of an adapted policy's parameters


def make_policy(language: LanguageModel) -> nn.Module:
    """A trainable Qwen3ForCausalLM that shares the parameters of `language`, so that rollouts use every update."""
    from transformers import Qwen3ForCausalLM

    with torch.device("meta"):
        policy = Qwen3ForCausalLM(copy.deepcopy(language.config))  # TRL writes into it
    shared = language.state_dict(keep_vars=True)  # the parameters themselves
    if language.lm_head is None:
        shared["lm_head.weight"] = shared["model.embed_tokens.weight"]
    shared = {name: shared[name] for name in policy.state_dict()}
    policy.load_state_dict(shared, assign=True)
    policy.model.rotary_emb = language.model.rotary_emb  # its table is not a parameter
    policy.requires_grad_(True)
    return policy


def freeze(policy: nn.Module, beginnings: Sequence[str]) -> None:
    """Keep weights whose names begin so as they are. Raises Blip3oError for a beginning that no name has."""
    parameters = dict(policy.named_parameters())
    for beginning in beginnings:
        found = [parameter for name, parameter in parameters.items() if _begins(name, beginning)]
        if not found:
            first = next(iter(parameters))
            raise Blip3oError(
                f"frozen names {shown(repr(beginning))}, but no weight of the language model begins so. Write names "
                f"as the checkpoint has them, like {first}, or the first parts of one."
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise Blip3oError("frozen names all weights of the language model, so nothing could learn. Name fewer.")


def excluded(beginnings: Sequence[str]) -> str:
    """The same modules as a regular expression, as peft leaves modules out."""
    return "|".join(rf"{re.escape(beginning.removesuffix('.'))}(\..*)?" for beginning in beginnings)


def _begins(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(beginning.removesuffix(".") + ".")


def mask_text_tokens(policy: nn.Module, vocabulary: Vocabulary) -> None:
    """Mask all tokens but image tokens in the output layer of a Qwen3ForCausalLM, in place."""
    head = policy.lm_head
    bias = torch.full((vocabulary.size,), MASKED_LOGIT, device=head.weight.device)
    bias[vocabulary.image_start : vocabulary.image_start + vocabulary.num_codes] = 0
    del head.bias  # a parameter that is None
    head.register_buffer("bias", bias.to(head.weight.dtype), persistent=False)


def share_adapters(policy: nn.Module, language: LanguageModel, seed: int) -> None:
    """Put the adapted layers of a peft model of the policy into `language`, which it shares its other weights with."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    start_adapters(policy, seed)
    for name, module in policy.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer):
            place, _, last = name.rpartition(".")
            setattr(language.get_submodule(place), last, module)


def policy_tensors(policy: nn.Module) -> dict[str, torch.Tensor]:
    """The policy's own parameters by their names, adapters and the layers under them included.

    A tied head is the embedding and has no name.
    """
    return {name.removeprefix(_PEFT): parameter.detach() for name, parameter in policy.named_parameters()}


def checkpoint_tensors(policy: nn.Module, lora: Lora | None) -> dict[str, torch.Tensor]:
    """What a checkpoint of the policy has otherwise than its source: by published name, merged adapters included."""
    tensors = policy_tensors(policy)
    if lora is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if ".lora_" in name or ".base_layer." in name}
    return trained_tensors({f"language.{name}": tensor for name, tensor in tensors.items()}, lora)


def adapter_tensors(policy: nn.Module) -> dict[str, torch.Tensor]:
    """As `save_adapter` takes them."""
    return {f"language.{name}": tensor for name, tensor in policy_tensors(policy).items() if ".lora_" in name}
