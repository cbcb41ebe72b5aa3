"""The graphs behind `workflows/*.json` in API format, with their columns, notes and what App mode shows of them."""

from . import edits, images, tokens

SAMPLES = [
    make()
    for make in (
        images.text_to_image, images.preview, edits.edit, edits.masked_edit, edits.two_references, edits.wide_edit,
        edits.edit_another_models_output, edits.keep_unchanged, tokens.brush,
    )
]  # fmt: skip
