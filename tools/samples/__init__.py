"""The graphs behind `workflows/*.json` in API format, with their columns, notes and what App mode shows of them."""

from . import drafts, edits, evaluation, images, mixing, tokens, training

SAMPLES = [
    make()
    for make in (
        images.text_to_image, images.preview, edits.edit, edits.masked_edit, edits.two_references, edits.wide_edit,
        edits.edit_another_models_output, edits.keep_unchanged, tokens.brush, drafts.choose_a_draft, drafts.splice,
        drafts.compare, drafts.save_tokens, mixing.one_click, mixing.two_prompts, mixing.second_pass,
        mixing.folder_of_images, drafts.best_of, training.train_a_lora, training.folder_to_lora,
        evaluation.evaluate_prompts,
    )
]  # fmt: skip
