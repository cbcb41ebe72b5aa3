"""LoRA on the language model, by our node: what peft's own merge gives, wherever the weights lie."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.loras import merged_by_peft, write_lora
from tools.comfyui.graphs import close, latents, node, text_to_image


@pytest.fixture(scope="module")
def loras(server, checkpoint):
    """The names of two LoRAs as peft writes them, in ComfyUI's folder."""
    folder = server.base / "models/loras"
    for seed, name in enumerate(("first", "second")):
        if not (folder / name).exists():
            write_lora(folder / name, checkpoint, seed)
    return [f"{name}/adapter_model.safetensors" for name in ("first", "second")]


@pytest.fixture(scope="module")
def merged(server, checkpoint, loras):
    """The name of a checkpoint into which peft merged LoRAs at their strengths."""

    def make(name, *strengths):
        folder = checkpoint.with_name(name)
        if not folder.exists():
            tensors = load_file(checkpoint / "model.safetensors")
            pairs = [(server.base / "models/loras" / file.split("/")[0], strength)
                     for file, strength in zip(loras, strengths, strict=False)]  # fmt: skip
            tensors |= {name: t.contiguous() for name, t in merged_by_peft(checkpoint, pairs).items()}
            shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("model.safetensors"))
            save_file(tensors, folder / "model.safetensors")
        return name

    return make


def with_loras(*pairs, **changes):
    """`pairs`: (name of the file, strength), in a row behind the loader."""
    graph, lm = text_to_image(**changes), ["load", 0]
    for number, (name, strength) in enumerate(pairs):
        graph[f"lora{number}"] = node("BLIP3oLoraLoader", lm=lm, lora_name=name, strength=strength)
        lm = [f"lora{number}", 0]
    for owner in ("generate", "condition"):
        graph[owner]["inputs"]["lm"] = lm
    return graph


def test_the_node_gives_what_peft_merges(client, server, loras, merged):
    """Catches a LoRA that is scaled otherwise than in training, one that replaces another, or one that stays."""
    plain = latents(server, client.run(text_to_image()))
    for name, strengths in {"half": (0.5,), "both": (1.0, -0.5)}.items():
        tuned = latents(server, client.run(with_loras(*zip(loras, strengths, strict=False))))
        assert not close(tuned, plain)
        assert close(tuned, latents(server, client.run(text_to_image(merged(name, *strengths)))))
    assert torch.equal(latents(server, client.run(text_to_image())), plain)
    off = latents(server, client.run(with_loras((loras[0], 0))))
    assert torch.equal(off, plain)


def test_what_runs_again(client, server, loras):
    """Catches tokens that are written again for a new noise seed, and a strength or a file that changes nothing."""
    client.run(with_loras((loras[0], 1.0)))
    again = client.run(with_loras((loras[0], 1.0), noise_seed=77))
    assert {"load", "lora0", "generate", "condition"} <= again.cached
    weaker = client.run(with_loras((loras[0], 0.9)))
    assert {"lora0", "generate", "condition"} <= set(weaker.executed) and "load" in weaker.cached
    config = server.base / "models/loras/first/adapter_config.json"
    before = config.read_text()
    config.write_text(before.replace('"lora_alpha": 6', '"lora_alpha": 7'))
    try:
        assert "lora0" in client.run(with_loras((loras[0], 0.9))).executed
    finally:
        config.write_text(before)


def test_refusals_are_shown(client, server, loras, checkpoint):
    """Catches a LoRA for another model that ComfyUI would pass over with a line in its log."""
    folder = server.base / "models/loras"
    save_file(
        {f"transformer.transformer_blocks.0.attn1.to_q.lora_{end}.weight": torch.zeros(2, 2) for end in "AB"},
        folder / "sana.safetensors",
    )
    (folder / "cut.safetensors").write_bytes((folder / loras[0]).read_bytes()[:-9])
    says = {"sana.safetensors": "LoraLoaderModelOnly", "cut.safetensors": "cannot be read as a safetensors file",
            "gone.safetensors": "Cannot find the LoRA 'gone", "../../x": "Cannot find the LoRA"}  # fmt: skip
    for name, sentence in says.items():
        result = client.run(with_loras((name, 1.0)))
        assert result.status == "error" and sentence in result.error["exception_message"], name


@pytest.mark.long
def test_a_lora_acts_wherever_the_weights_lie(in_host, loose_checkpoint, tmp_path):
    """Catches a LoRA that int8 or fp8 rounds away, that is lost where weights are streamed, or that stays; and a name
    that differs between processes, so that tokens from a file never match again."""
    adapter = write_lora(tmp_path / "lora", Path(loose_checkpoint), 5)

    def look(module, folder, adapter, formats):
        from pathlib import Path

        import comfy.model_patcher
        import torch

        language, prefill = module(".nodes.host.language"), module(".blip3o_core.decoding.prefill")
        add_lora, why_not = module(".nodes.host.lora").add_lora, module(".blip3o_core.decoding.direct").why_not_direct
        cpu, file, found, effect = torch.device("cpu"), Path(adapter), {}, None

        def states(network):
            codes = network.vocabulary.image_start + torch.arange(25)[None]
            with torch.inference_mode():
                return prefill.encode_tokens(network, prefill.Prompts([[1, 2, 3, 4]]), codes)

        def loaded(lm):
            with lm.loaded(0):
                return states(lm.network)

        for choice in formats:
            part = language.load_language(folder, None, "fp32", choice)
            before, tuned = loaded(part), add_lora(part, file, 1.0)
            merged = loaded(tuned)
            direct = why_not(tuned.network, cpu, torch.float32, choice != "same as dtype")
            back = torch.equal(loaded(part), before)
            part.patcher.detach()
            patcher = comfy.model_patcher.ModelPatcher(part.network, cpu, cpu)
            patcher.patches = tuned.patcher.patches
            patcher.partially_load(cpu, int(0.05 * patcher.model_size()))
            streamed = states(part.network)
            patcher.unpatch_model(cpu)
            effect = merged - before if effect is None else effect
            other = tuned.clone()
            other.patcher.add_patches({"model.norm.weight": ("diff", (torch.ones(64),))})
            twice = add_lora(tuned, file, 0.5)
            found[choice] = {
                "moved": float(effect.norm() / before.norm()),
                "off": [float((each - before - effect).norm() / effect.norm()) for each in (merged, streamed)],
                "back": back, "direct": direct, "same": add_lora(part, file, 0.0) is part,
                "names": [each.identity for each in (part, tuned, twice)],
                "strangers": [other.identity, add_lora(other, file, 1.0).identity, part.identity],
            }  # fmt: skip
        return found

    formats, run = ["same as dtype", "int8", "fp8"], {"folder": loose_checkpoint, "adapter": str(adapter)}
    found, again = (in_host(look, formats=some, **run) for some in (formats, formats[:1]))
    for choice, seen in found.items():
        assert seen["back"] and seen["same"] and seen["direct"] is None, seen
        assert max(seen["off"]) < (1e-5 if choice == formats[0] else 0.3), seen
        assert len(set(seen["names"])) == 3
        plain, tuned, twice = seen["names"]
        assert twice.startswith(tuned) and twice.endswith("x0.5")
        # What another node adds has no name that lasts.
        assert len({plain, tuned, *seen["strangers"]}) == 4
    [(_, first)], second = again.items(), found[formats[0]]
    assert first["names"] == second["names"] and first["strangers"] != second["strangers"]
