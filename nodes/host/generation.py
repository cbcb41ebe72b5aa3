"""The token generator's widgets as settings of the library, and the info text it returns."""

from ...blip3o_core.decoding.sampling import Sampling
from ...blip3o_core.editing.image_mentions import missing_image_numbers
from ...blip3o_core.editing.references import References
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.files import split_lines
from ...blip3o_core.tokens.image_tokens import ImageTokens
from ..limits import MAX_BATCH
from . import notes
from .language import Language


def prompts_of(prompt: str, copies: int, by_line: bool) -> list[str]:
    """The prompts of a batch; `by_line`: each line that is not empty, `copies` times."""
    prompts = [line for line in split_lines(prompt) if line.strip()] if by_line else [prompt]
    rows = len(prompts) * copies
    if rows > MAX_BATCH:
        raise Blip3oError(
            f"{len(prompts)} prompts with batch_size {copies} are {rows} images, but at most {MAX_BATCH} are written "
            "at once. Lower batch_size, or put fewer lines into the prompt."
        )
    return [each for each in prompts or [prompt] for _ in range(copies)]


def sampling_of(choice: dict, guidance: float, vocabulary: str) -> Sampling:
    """The token generator's widgets -> Sampling. `choice`: the dynamic combo with the inputs of its option."""
    common = {"guidance": guidance, "image_tokens_only": vocabulary != "full"}
    if choice["sampling"] == "greedy":
        return Sampling(top_k=1, **common)
    return Sampling(**{name: value for name, value in choice.items() if name != "sampling"}, **common)


def describe(tokens: ImageTokens, lm: Language, reference: References | None = None) -> str:
    """One line per row (seed, length, distinct codes), then how long the prompt is and what an edit names in vain."""
    lines = [f"{len(tokens)} x {tokens.grid[0]}x{tokens.grid[1]} image tokens"]
    for seed, length, codes in zip(tokens.seeds, tokens.lengths, tokens.codes, strict=True):
        lines.append(f"seed {seed}: {length} tokens, {codes[:length].unique().numel()} different")
    longest = max(map(len, tokens.prompt_ids))
    lines.append(f"prompt: {longest} of {lm.encoder.limit} tokens")
    if reference is not None:
        lines[-1] += f", {reference.codes.numel()} of them for reference images"
        for prompt in dict.fromkeys(tokens.prompts):
            for number in missing_image_numbers(prompt, len(reference)):
                lines.append(f"warning: the prompt mentions image {number}, but only {len(reference)} are connected")
    if lm.is_bundled:
        lines += [f"warning: {note}" for note in notes.of_prompts(tokens.prompts, lm.encoder)]
    return "\n".join(lines)
