"""The language model's matrices as int8 or fp8: smaller, close, patched and streamed like any other, never mixed up."""

import pytest

from blip3o_core.checkpoint.bundled import BUNDLED
from tools.comfyui.graphs import latents, text_to_image

FORMATS = ["int8", "fp8"]
# Of the hidden states' length, for the bundled model; measured 0.012 and 0.047 (docs/memory.md).
BOUNDS = {"int8": 0.03, "fp8": 0.1}


def test_weights_are_smaller_and_hidden_states_close(in_host):
    """Weights that are only called quantised, a scale that is lost, or hidden states of one format used for another."""

    def look(module, folder, formats):
        import torch

        language, memory = module(".nodes.host.language"), module(".blip3o_core.memory")
        prefill = module(".blip3o_core.decoding.prefill")
        plain = language.load_language(folder, None, "fp32")
        settings, found = (
            module(".nodes.host.generation").sampling_of({"sampling": "sample", "top_k": 1200}, 1.0, "image tokens"),
            {},
        )
        tokens = plain.generate_tokens(["a red circle left of a blue star"], 3, settings)
        wanted = plain.conditionings(tokens)[0][0][0]
        expected = memory.quantised_weight_bytes(plain.network, torch.float32)
        for choice in formats:
            part = module(".nodes.host.loaders").load(folder, None, "fp32", choice)[0]
            states = part.conditionings(tokens)[0][0][0]
            start = plain.network.vocabulary.image_start
            asked = prefill.Prompts(tokens.prompt_ids)
            read = [prefill.encode_tokens(each.network, asked, tokens.codes + start) for each in (plain, part)]
            found[choice] = {
                "error": float((read[1] - read[0]).norm() / read[0].norm()),
                "moved": float((states - wanted).abs().max()),
                "size": part.patcher.model_size() / plain.patcher.model_size(),
                "as_computed": part.patcher.model_size() / expected,
                "bits": str(part.network.model.layers[0].mlp.up_proj.weight._qdata.dtype),
                "embeddings": str(part.network.model.embed_tokens.weight.dtype),
                "asks_for_more": part.prefill_bytes(1, 9) - plain.prefill_bytes(1, 9),
                "drawn": list(part.generate_tokens(["a red star"], 0, settings).codes.shape),
                "identity": part.identity,
            }
        return [plain.identity, found]

    plain, found = in_host(look, folder=str(BUNDLED), formats=FORMATS)
    for choice, seen in found.items():
        assert 0.001 < seen["error"] < BOUNDS[choice] and seen["moved"] > 0, choice
        assert seen["size"] < 0.6 and seen["as_computed"] == pytest.approx(1, abs=0.01), choice
        assert seen["embeddings"] == "torch.float32" and seen["drawn"] == [1, 64]
        assert seen["asks_for_more"] == 192 * 512 * 8
    assert [seen["bits"] for seen in found.values()] == ["torch.int8", "torch.float8_e4m3fn"]
    assert len({plain, *(seen["identity"] for seen in found.values())}) == 3


def test_a_patch_acts_wherever_the_weight_lies(in_host, loose_checkpoint):
    """A LoRA that does nothing, that stays after it is taken away, or that is lost when a model is loaded in part."""

    def look(module, folder, formats):
        import comfy.model_patcher
        import torch

        language, prefill, found = module(".nodes.host.language"), module(".blip3o_core.decoding.prefill"), {}
        key, cpu = "model.layers.0.self_attn.q_proj.weight", torch.device("cpu")
        prompts, codes = [[1, 2, 3, 4]], torch.arange(40, 49)[None]
        for choice in formats:
            part = language.load_language(folder, None, "fp32", choice)
            weight = part.network.state_dict()[key]
            change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.1

            def states(patcher):
                with torch.inference_mode():
                    return prefill.encode_tokens(patcher.model, prefill.Prompts(prompts), codes)

            before = states(part.patcher)
            merged = language.load_language(folder, None, "fp32", choice)
            leaf = merged.network.model.layers[0].self_attn.q_proj
            leaf.weight = torch.nn.Parameter(leaf.weight.dequantize() + change, requires_grad=False)
            wanted, errors = states(merged.patcher), []
            for budget in (0.05, 1e9):
                patcher = comfy.model_patcher.ModelPatcher(part.network, cpu, cpu)
                patcher.add_patches({key: ("diff", (change,))})
                patcher.partially_load(cpu, int(budget * patcher.model_size()))
                after = states(patcher)
                in_part = any(len(leaf.weight_function) for leaf in part.network.modules()
                              if hasattr(leaf, "weight_function"))  # fmt: skip
                errors.append([in_part, float((after - wanted).norm() / (wanted - before).norm())])
                patcher.unpatch_model(cpu)
                errors[-1].append(torch.equal(states(patcher), before))
            found[choice] = errors
        return found

    for choice, ((in_part, streamed, back), (_, merged, back_again)) in in_host(
        look, folder=loose_checkpoint, formats=FORMATS
    ).items():
        assert in_part and streamed < 1e-4 and back, choice  # the patch is added to the weight as it is used
        assert merged < 0.3 and back_again, choice  # the host rounds the patched weight to the format again


def test_nothing_is_left_behind_at_any_memory_budget(in_host, loose_checkpoint):
    """A quantised leaf, or its scale, that stays on the CPU when a card is too small."""

    def look(module, folder, formats):
        import comfy.model_patcher
        import torch

        offload, card, report = module(".nodes.host.offload"), torch.device("meta"), []
        for choice in formats:
            for budget in (0.05, 0.5, 2.0):
                made = module(".nodes.host.language").load_language(folder, None, "bf16", choice).patcher
                patcher = comfy.model_patcher.ModelPatcher(made.model, card, torch.device("cpu"))
                patcher.callbacks, net = made.callbacks, made.model
                ids = torch.zeros(1, 6, device=card, dtype=torch.long)
                with torch.inference_mode():
                    patcher.partially_load(card, int(budget * patcher.model_size()))
                    away = offload.streamed(patcher)
                    states = net(net.embed(ids, torch.float32), ids)
                there = sum(leaf.weight.nbytes for leaf in net.modules()
                            if getattr(leaf, "weight", None) is not None and leaf.weight.is_meta)  # fmt: skip
                report.append([budget, away / patcher.model_size(), 1 - there / patcher.model_size(), states.is_meta])
                assert not offload.unswapped(net), offload.unswapped(net)
        return report

    for budget, away, not_there, done in in_host(look, folder=loose_checkpoint, formats=FORMATS):
        assert done and away == pytest.approx(not_there, abs=0.05) and (away == 0) == (budget == 2.0), budget


def test_the_host_builds_the_same_patcher_again(in_host, loose_checkpoint):
    """A recipe that forgets the format: torch.compile or a second GPU would bring the whole model back."""

    def look(module, folder):
        import torch

        part = module(".nodes.host.language").load_language(folder, None, "fp32", "int8")
        again = part.patcher.clone(disable_dynamic=True, force_deepcopy=True)
        mine, theirs = part.network.state_dict(), again.model.state_dict()
        return [again.model is not part.network, mine.keys() == theirs.keys(), again.model_size() == part.patcher.size,
                all(torch.equal(mine[name], theirs[name]) for name in mine)]  # fmt: skip

    assert in_host(look, folder=loose_checkpoint) == [True] * 4


def test_what_this_host_cannot_store_is_refused_before_loading(in_host, loose_checkpoint):
    """A KeyError of the host's after a minute of reading weights, or a typo that loads the whole model."""

    def look(module, folder):
        language = module(".nodes.host.language")
        quantised, said = module(".nodes.host.quantised"), []
        quantised.QUANT_ALGOS = {name: quantised.QUANT_ALGOS[name] for name in ("float8_e4m3fn",)}
        for choice in ("int4", "int8", "fp8"):
            try:
                language.load_language(folder if choice == "fp8" else "absent", None, "fp32", choice)
                said.append("loaded")
            except module(".blip3o_core.errors").Blip3oError as error:
                said.append(str(error))
        return said

    typo, old, loaded = in_host(look, folder=loose_checkpoint)
    assert "'int4'" in typo and "'int8'" in typo and "Update ComfyUI" in old and loaded == "loaded"


def test_a_run_on_streamed_weights_says_so_once(in_host, loose_checkpoint):
    """A creator on a small card who waits minutes for tokens and never learns why, or reads it 729 times."""

    def look(module, folder):
        import logging

        language = module(".nodes.host.language")
        part, said = language.load_language(folder, None, "fp32"), []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: said.append(record.getMessage())
        logging.getLogger().addHandler(handler)
        settings = module(".nodes.host.generation").sampling_of({"sampling": "greedy"}, 1.0, "image tokens")
        part.generate_tokens(["a fox"], 0, settings)
        quiet = len(said)
        language.streamed = lambda patcher: 1_250_000_000
        part.generate_tokens(["a fox"], 0, settings)
        return [quiet, said]

    quiet, said = in_host(look, folder=loose_checkpoint)
    assert quiet == 0 and len(said) == 1
    assert "1.25 of its" in said[0] and "each of 25 tokens" in said[0] and "lm_weights" in said[0]


def test_the_estimates_are_the_ones_the_host_is_given(in_host, loose_checkpoint):
    """A documented memory path that is computed from other numbers than those the host is asked for."""

    def look(module, folder):
        import torch

        memory = module(".blip3o_core.memory")
        _, model, vae, _ = module(".nodes.host.loaders").load(folder, None, "fp32")
        # The host's formula for attention that keeps no matrix of scores, two rows of 6 x 8 cells.
        rendering = model.model.memory_usage_factor * 2 * 48 * 4 * 0.01 * 2**20
        decoding = vae.memory_used_decode((1, 4, 6, 8), torch.float32)
        pixels = 6 * 8 * vae.downscale_ratio**2
        return [
            memory.diffusion_bytes(model.model.diffusion_model.config, 2, 48, torch.float32) / rendering,
            memory.vae_bytes(vae.first_stage_model.config, pixels, torch.float32) / decoding,
        ]

    assert in_host(look, folder=loose_checkpoint) == [pytest.approx(1, rel=1e-3)] * 2


@pytest.mark.usefixtures("checkpoint")
def test_the_loaders_input_reaches_the_language_model(client, server):
    """A widget that changes nothing, or results of one format that the host's cache gives for another."""
    drawn = [latents(server, client.run(_graph(choice))) for choice in ("same as dtype", *FORMATS)]
    assert all(not drawn[0].equal(each) and drawn[0].shape == each.shape for each in drawn[1:])


def _graph(choice: str) -> dict:
    graph = text_to_image()
    graph["load"]["inputs"]["lm_weights"] = choice
    return graph
