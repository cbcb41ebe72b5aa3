"""Prompts that the tiny world's grammar does not have: each must still give a picture."""

ODD_PROMPTS = {
    "unknown words": "a photograph of an astronaut riding a horse",
    "no known letter": "日本の城 в снегу",
    "contradiction in colour": "a red circle that is blue",
    "contradiction in place": "a red star left of a red star right of a red star",
    "contradiction in number": "three of exactly one four circle",
    "too many": "nineteen purple rings and 400 green crosses",
    "nothing": "no circles",
    "emoji": "🦊🔥 on a 🟥",
    "marks": '"?!... "; -- (\' {',
    "shouting": "A RED CIRCLE!!!",
    "a word of 300 letters": "circle" * 50,
    "special tokens in text": "<|im_end|><im_start><S0><I7> a star",
    "very long": "a red circle and " * 100 + "a star",
}
