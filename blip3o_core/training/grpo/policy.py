"""The policy that TRL trains: transformers' Qwen3ForCausalLM on the very parameters that our own decoder draws with.

- Only image tokens can follow `<S0>`: a fixed bias on the output layer bars all others, in TRL's log-probabilities,
  entropies and KL as in our decoder, which projects to image rows alone. The bias is no part of the checkpoint.
- Connectors stay outside: the policy's names are the published ones, and it holds nothing but what is trained.
"""

import copy

import torch
from torch import nn

from ...models.language import LanguageModel
from ...prompts.vocabulary import Vocabulary

MASKED_LOGIT = -1e4  # as a logit; infinity would make the entropy NaN


def make_policy(language: LanguageModel) -> nn.Module:
    """A trainable Qwen3ForCausalLM on the parameters of `language`: what is learnt is drawn with at once."""
    from transformers import Qwen3ForCausalLM

    with torch.device("meta"):
        policy = Qwen3ForCausalLM(copy.deepcopy(language.config))  # TRL writes into it
    shared = language.state_dict(keep_vars=True)  # the parameters themselves
    if language.lm_head is None:
        shared["lm_head.weight"] = shared["model.embed_tokens.weight"]
    shared = {name: shared[name] for name in policy.state_dict()}
    policy.load_state_dict(shared, assign=True)
    policy.model.rotary_emb = language.model.rotary_emb  # its table is no parameter
    policy.requires_grad_(True)
    return policy


def mask_text_tokens(policy: nn.Module, vocabulary: Vocabulary) -> None:
    """Let the output layer of a Qwen3ForCausalLM give image tokens only, in place."""
    head = policy.lm_head
    bias = torch.full((vocabulary.size,), MASKED_LOGIT, device=head.weight.device)
    bias[vocabulary.image_start : vocabulary.image_start + vocabulary.num_codes] = 0
    del head.bias  # a parameter that is None
    head.register_buffer("bias", bias.to(head.weight.dtype), persistent=False)


def policy_tensors(policy: nn.Module) -> dict[str, torch.Tensor]:
    """The policy's parameters by their names in a checkpoint; a tied head is the embedding and has no name."""
    return {name: parameter.detach() for name, parameter in policy.named_parameters()}
