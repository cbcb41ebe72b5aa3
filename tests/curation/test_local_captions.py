"""Texts by models of this machine: tiny random ones of transformers, saved on the spot."""

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from blip3o_core.curation.engine import curate
from blip3o_core.curation.models.local import LocalWriter
from blip3o_core.curation.models.writers import PROMPTS, Ask
from blip3o_core.curation.sample import Sample
from blip3o_core.shards.read import ShardFolder
from tests.support.curation import CAPTION, encoded, pair, settings, texture, write_tar

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEMPLATE = (
    "{% for message in messages %}USER {% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT{% endif %}"
)


def source(tmp_path):
    return str(write_tar(tmp_path / "data.tar", pair("0000", encoded(texture(0)))))


def texts(outcome) -> list[tuple[str, ...]]:
    """Of all samples in the shard."""
    folder = ShardFolder(outcome.work.shards)
    return [folder.read(0, number).record.texts for number in range(len(folder))]


def tokenizer_of(words, **marks):
    own = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token=marks["unk_token"]))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own, **marks)


def fill(network, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))


def save_blip(folder):
    """A tiny random BLIP with its processor -> its folder, and what it says about the first image."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "red", "hill", "tree", "house"]
    marks = {"bos_token": "[DEC]", "eos_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = tokenizer_of(words, cls_token="[CLS]", **marks)
    ids = {"bos_token_id": 4, "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    text = {**SIZE, **ids, "vocab_size": len(words), "max_position_embeddings": 32, "encoder_hidden_size": 16}
    vision = {**SIZE, "image_size": 32, "patch_size": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=8)
    network = transformers.BlipForConditionalGeneration(config).eval()
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.BlipProcessor(images, tokenizer)
    inputs = processor(images=texture(0), return_tensors="pt")
    for seed in range(200):  # until it ends a text by itself
        fill(network, seed)
        ids = network.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=9)[0]
        text = processor.decode(ids, skip_special_tokens=True)
        if ids[-1] == 3 and len(text.split()) > 1:
            break
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder), text


def save_llava(folder):
    """A tiny random LLaVA, which chats, with its processor -> its folder, and its answers to each question."""
    asked = " ".join(PROMPTS.values()).replace(".", " . ").replace(",", " , ").replace(":", " : ").split()
    words = [
        "<pad>",
        "<unk>",
        "<s>",
        "</s>",
        "<image>",
        "USER",
        "ASSISTANT",
        "red",
        "hill",
        "tree",
        *sorted(set(asked)),
    ]
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = tokenizer_of(words, additional_special_tokens=["<image>"], **marks)
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    vision = transformers.CLIPVisionConfig(**SIZE, image_size=32, patch_size=16, projection_dim=8)
    text = transformers.LlamaConfig(**SIZE, **ids, vocab_size=len(words), max_position_embeddings=128)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1
    )
    network = transformers.LlavaForConditionalGeneration(config).eval()
    sides = {"height": 32, "width": 32}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=sides)
    how = {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = transformers.LlavaProcessor(images, tokenizer, chat_template=TEMPLATE, **how)

    def answer(kind: str, image) -> str:
        # As the template has it, with a token for each of the four patches, and none of the question in the answer.
        ids = tokenizer(f"USER {'<image>' * 4} {PROMPTS[kind]} ASSISTANT", return_tensors="pt")["input_ids"]
        pixels = images(image, return_tensors="pt")["pixel_values"]
        mask = torch.ones_like(ids)
        found = network.generate(
            input_ids=ids, pixel_values=pixels, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=9
        )[0, ids.shape[1] :]
        return tokenizer.decode(found, skip_special_tokens=True) if found[-1] == 3 else ""

    for seed in (96, *range(500)):  # until it ends its texts by itself, and they depend on the question and the image
        fill(network, seed)
        answers = {kind: answer(kind, texture(0)) for kind in ("long", "short")}
        if all(answers.values()) and len({*answers.values(), answer("long", texture(1))}) == 3:
            break
    else:
        raise AssertionError("no seed gives three texts")
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder), answers


def test_a_model_of_this_machine_writes(tmp_path):
    """Catches a folder of transformers that is read or asked otherwise than by transformers, and a text that is cut."""
    path, (folder, text) = source(tmp_path), save_blip(tmp_path / "blip")
    free = {"max_repetition": None}
    local = {"use": "local", "options": {"model": folder, "most_tokens": 9}}
    assert texts(curate(settings([path], tmp_path / "out", captions=local, keep=free))) == [(text,)]
    local["options"]["most_tokens"] = 1
    outcome = curate(settings([path], tmp_path / "out", captions=local, keep=free))
    assert texts(outcome) == [(CAPTION,)] and "used up its tokens" in outcome.work.faults.read_text()


def test_a_model_that_chats_is_asked_each_question(tmp_path):
    """Catches a chat template that is not used, an answer that begins with the question, and an image left out."""
    path, (folder, answers) = source(tmp_path), save_llava(tmp_path / "llava")
    free = {"max_repetition": None, "min_letters": None, "min_words": None}
    local = {"use": "local", "write": ["long", "short"], "options": {"model": folder, "most_tokens": 9}}
    outcome = curate(settings([path], tmp_path / "out", captions=local, keep=free))
    assert texts(outcome) == [(answers["long"], answers["short"])]
    (cut,) = LocalWriter(["long"], model=folder, most_tokens=1)([Ask("long", Sample("a", "a", encoded(texture(0))))])
    assert cut.cut and len(cut.text.split()) <= 1
