"""Image tokens per second, against the authors' way: transformers' `generate`, then a second pass over everything."""

import torch

from blip3o_core.decoding import Sampling, decode

from .machine import in_turn
from .models import Model, authors_language


def run(model: Model, device: torch.device, tokens: int | None, batch: int, runs: int) -> dict:
    """`tokens`: to write, fewer than a picture's where that would take minutes."""
    language, prompts = model.language, [model.prompt] * batch
    tokens = tokens or language.num_tokens
    language.grid = (1, tokens)
    theirs = authors_language(language)
    ids = torch.tensor(prompts, device=device)

    def ours() -> None:
        decode(language, prompts, list(range(batch)), Sampling())

    @torch.no_grad()
    def authors() -> None:
        # No end token: both sides write as many tokens.
        drawn = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True, top_p=0.95, top_k=1200,
            temperature=1.0, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert drawn.shape[1] == ids.shape[1] + tokens
        theirs.model(drawn, output_hidden_states=True)

    found = in_turn(ours, authors, device, runs)
    read = sum(p.numel() * p.element_size() for p in language.model.layers.parameters())
    read += language.vocabulary.num_codes * language.config.hidden_size * language.model.norm.weight.element_size()
    return {
        "model": model.name, "dtype": str(language.model.norm.weight.dtype).removeprefix("torch."), "batch": batch,
        "prompt": len(model.prompt), "tokens": tokens, **found,
        "ours_tokens_per_s": batch * tokens / found["ours_s"],
        "theirs_tokens_per_s": batch * tokens / found["theirs_s"],
        "weight_gb_per_s": read * tokens / found["ours_s"] / 1e9,
    }  # fmt: skip
