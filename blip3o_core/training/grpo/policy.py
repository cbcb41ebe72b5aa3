"""The policy that TRL trains: transformers' Qwen3ForCausalLM on the parameters that our own decoder generates with.

- Only image tokens can follow `<S0>`. A fixed bias on the output layer masks all others in TRL's log-probabilities,
  entropies and KL; our decoder computes image tokens alone. The bias is not saved with the checkpoint.
- Connectors are not part of the policy: its parameters have their published names, and all of them are trained.
"""

import copy

import torch
from torch import nn

from ...models.language import LanguageModel
from ...prompts.vocabulary import Vocabulary

MASKED_LOGIT = -1e4  # as a logit; infinity would make the entropy NaN


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


def mask_text_tokens(policy: nn.Module, vocabulary: Vocabulary) -> None:
    """Mask all tokens but image tokens in the output layer of a Qwen3ForCausalLM, in place."""
    head = policy.lm_head
    bias = torch.full((vocabulary.size,), MASKED_LOGIT, device=head.weight.device)
    bias[vocabulary.image_start : vocabulary.image_start + vocabulary.num_codes] = 0
    del head.bias  # a parameter that is None
    head.register_buffer("bias", bias.to(head.weight.dtype), persistent=False)


def policy_tensors(policy: nn.Module) -> dict[str, torch.Tensor]:
    """The policy's parameters by their names in a checkpoint. A tied head is the embedding and has no name."""
    return {name: parameter.detach() for name, parameter in policy.named_parameters()}
