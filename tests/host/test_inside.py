"""What no request can show: the pack's footprint in the host, and weights that move leaf by leaf."""

import json

import pytest

from tools.comfyui.inside import in_host
from tools.schemas import CONTRACT


def test_importing_the_pack_loads_nothing_else_and_changes_nothing():
    """Every start of ComfyUI pays for our imports, and every other pack for our monkeypatches."""

    def look(module):
        import asyncio
        import importlib.util
        import sys

        import comfy.model_base
        import comfy.model_patcher
        import comfy.ops
        import comfy.sd
        import torch
        import torch.nn as nn

        def settings():
            backends = torch.backends
            watched = [nn.Linear, nn.Module, nn.Embedding, nn.LayerNorm, nn.Conv2d, comfy.ops, comfy.ops.manual_cast]
            watched += [comfy.ops.disable_weight_init, comfy.model_patcher.ModelPatcher, comfy.model_base.BaseModel]
            watched += [comfy.sd.VAE, torch.nn.functional, torch]
            return [
                torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), torch.initial_seed(),
                torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
                backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark,
                *[(thing.__name__, name, id(value)) for thing in watched for name, value in sorted(vars(thing).items())
                  if callable(value)],
            ]  # fmt: skip

        pack = module("")
        for name in [name for name in sys.modules if name.startswith(pack.__name__)]:
            del sys.modules[name]
        blocked = {name: sys.modules.pop(name, None) for name in ("transformers", "diffusers", "accelerate")}
        for name in blocked:
            sys.modules[name] = None  # importing it now raises
        before, known = settings(), set(sys.modules)
        spec = importlib.util.spec_from_file_location(pack.__name__, pack.__file__)
        again = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = again
        spec.loader.exec_module(again)
        extension = again.comfy_entrypoint()
        asyncio.run(extension.on_load())
        found = asyncio.run(extension.get_node_list())
        loaded = [name.removeprefix(pack.__name__) for name in set(sys.modules) - known]
        return {"loaded": sorted(loaded), "nodes": len(found), "same": settings() == before}

    seen = in_host(look)  # a ComfyUI of its own, without libraries that are imported before
    assert seen["nodes"] == len(json.loads(CONTRACT.read_text(encoding="utf-8"))) and seen["same"]
    strangers = [name for name in seen["loaded"] if not name.startswith(".") and name]
    light = "curated folders image_folders lora_files prompt_files reward_files saved_files token_folder".split()
    light = [f".nodes.host.{name}" for name in light]
    heavy = [name for name in seen["loaded"] if name.startswith(".nodes.host.") and name not in light]
    assert strangers == heavy == [] and len(seen["loaded"]) < 60, seen["loaded"]


def test_the_door_is_harmless_without_a_host():
    """Tools that import every package they find must not fail on a missing comfy."""
    import subprocess
    import sys

    from tools.environment import TOP

    code = (
        "import importlib.util, sys; s = importlib.util.spec_from_file_location('door', sys.argv[1]); "
        "m = importlib.util.module_from_spec(s); s.loader.exec_module(m); "
        "assert 'torch' not in sys.modules and m.WEB_DIRECTORY"
    )
    subprocess.run([sys.executable, "-I", "-c", code, str(TOP / "__init__.py")], check=True)


def test_no_part_leaves_weights_behind_at_any_memory_budget(in_host, loose_checkpoint):
    """A leaf that the host cannot stream stays on the CPU when a card is too small, and the run crashes there.

    The meta device stands for the card: whatever is still on the CPU meets meta tensors in the forward and fails.
    """

    def look(module, folder):
        import comfy.model_patcher
        import torch

        offload, card, report = module(".nodes.host.offload"), torch.device("meta"), {}

        def zeros(*shape, **options):
            return torch.zeros(*shape, device=card, **options)

        def language(net):
            ids = zeros(1, 6, dtype=torch.long)
            states = net(net.embed(ids, torch.float32), ids)
            return torch.nn.functional.linear(net.connector.__getitem__(0)(states), zeros(3, 40)), net.head_weight(
                states, True
            )

        def diffusion(net):
            network = net.diffusion_model
            return network(zeros(1, network.config.in_channels, 4, 4), zeros(1), context=zeros(1, 5, 40))

        def decode(net):
            return type(net).__mro__[1].decode(net, zeros(1, net.config.latent_channels, 2, 2))

        def tokens(net):
            return net.codes(net.features(zeros(1, 3, net.config.image_size, net.config.image_size)))

        def encode(net):
            return net.encode(zeros(1, 3, 64, 64))

        runs = [
            ("language.load_language", language),
            ("model.load_diffusion", diffusion),
            ("vae.load_vae", decode),
            ("vae.load_vae", encode),
            ("image_tokenizer.load_image_tokenizer", tokens),
        ]
        for loader, run in runs:
            file, _, function = loader.partition(".")
            for budget in (0.05, 0.5, 2.0):
                loaded = getattr(module(f".nodes.host.{file}"), function)(folder, None, "fp32")
                made = getattr(loaded, "patcher", loaded)
                patcher = comfy.model_patcher.ModelPatcher(made.model, card, torch.device("cpu"))
                patcher.callbacks = made.callbacks
                with torch.inference_mode():
                    patcher.partially_load(card, int(budget * patcher.model_size()))
                    run(patcher.model)
                share = [parameter.is_meta for parameter in patcher.model.parameters()]
                report[f"{run.__name__} {budget}"] = sum(share) / len(share)
                assert not offload.unswapped(made.model), offload.unswapped(made.model)
        # The check itself: a norm of another kind must be noticed.
        made.model.stranger = torch.nn.PReLU()
        return [report, offload.unswapped(made.model)]

    report, missed = in_host(look, folder=loose_checkpoint)
    assert missed == ["stranger (PReLU)"]
    assert all(share == 1 for name, share in report.items() if name.endswith("2.0"))
    assert any(0 < share < 1 for share in report.values()) and min(report.values()) < 0.1


def test_cast_leaves_compute_what_the_library_computes(in_host, loose_checkpoint):
    """bf16 weights under fp32 activations: a norm or table that answers in bf16 would poison what follows."""

    def look(module, folder):
        import torch

        checkpoint = module(".blip3o_core.checkpoint.recognise").open_checkpoint(folder)
        swap, worst = module(".nodes.host.offload").swap_leaves, {}
        generator = torch.Generator().manual_seed(0)

        def random(*shape):
            return torch.randn(*shape, generator=generator)

        ids, x, context, latent = torch.arange(6)[None], random(1, 8, 4, 4), random(1, 5, 40), random(1, 8, 2, 2)
        pixels = random(1, 3, 76, 76)

        def language(net):
            states = net(net.embed(ids, torch.float32), ids)
            return torch.cat([net.connector(states).flatten(), (states @ net.head_weight(states, True).T).flatten()])

        runs = {
            "load_language": language,
            "load_transformer": lambda net: net(x, context, torch.ones(1), return_dict=False)[0],
            "load_autoencoder": lambda net: net.decode(latent, return_dict=False)[0],
            "load_image_tokenizer": lambda net: net.features(pixels),
        }
        with torch.inference_mode():
            for name, run in runs.items():
                # SigLIP casts pixels to its weights' dtype: the pack loads it in the dtype it computes in.
                stored = torch.float32 if name == "load_image_tokenizer" else torch.bfloat16
                swapped = run(swap(getattr(checkpoint, name)(stored), cast=True))
                plain = run(getattr(checkpoint, name)(stored).float())
                uncast = run(swap(getattr(checkpoint, name)(torch.float32)))
                exact = run(getattr(checkpoint, name)(torch.float32))
                assert swapped.dtype == torch.float32, name
                worst[name] = [float((swapped - plain).abs().max() / plain.abs().max())]
                worst[name].append(float((uncast - exact).abs().max()))
        return worst

    for name, (cast, uncast) in in_host(look, folder=loose_checkpoint).items():
        assert cast < 1e-6 and uncast == 0, name


def test_the_host_can_build_an_ordinary_patcher_again(in_host, loose_checkpoint):
    """With dynamic VRAM, torch.compile, hooks and several GPUs clone the model this way and fail without a recipe."""

    def look(module, folder):
        import torch

        parts = module(".nodes.host.loaders").load(folder, None, "fp32")
        same = []
        for part in parts:
            patcher = getattr(part, "patcher", part)
            again = patcher.clone(disable_dynamic=True, force_deepcopy=True)
            mine, theirs = patcher.model.state_dict(), again.model.state_dict()
            same.append(again.model is not patcher.model and type(again.model) is type(patcher.model))
            same.append(all(torch.equal(mine[name], theirs[name]) for name in mine) and len(mine) == len(theirs))
        return same

    assert in_host(look, folder=loose_checkpoint) == [True] * 8


def test_hidden_states_are_reused_only_from_the_very_same_weights(in_host, loose_checkpoint):
    """Stale hidden states would render a LoRA's prompt with the states of the plain model."""

    def look(module, folder):
        import torch

        language_module, reads = module(".nodes.host.language"), []
        language = language_module.load_language(folder, None, "fp32")
        prefill = module(".blip3o_core.decoding.prefill")
        encode = prefill.encode_tokens
        module(".blip3o_core.pipeline").encode_tokens = lambda *args: reads.append(1) or encode(*args)
        settings = module(".nodes.host.generation").sampling_of({"sampling": "greedy"}, 1.0, "image tokens")
        with torch.inference_mode():
            tokens = language.generate_tokens(["a fox"], 0, settings)
            first = language.conditionings(tokens)[0][0][0]
            again = language_module.load_language(folder, None, "fp32").conditionings(tokens)[0][0][0]
            plain = len(reads)
            patched = language.clone()
            key = "model.layers.0.self_attn.q_proj.weight"
            weight = patched.network.state_dict()[key]
            patched.patcher.add_patches({key: ("diff", (torch.full_like(weight, 0.5),))})
            moved = patched.conditionings(tokens)[0][0][0]
            merged = language_module.load_language(folder, None, "fp32")
            merged.network.state_dict()[key].add_(0.5)
            prompts, ids = prefill.Prompts(tokens.prompt_ids), tokens.codes + merged.network.vocabulary.image_start
            expected = encode(merged.network, prompts, ids)
            back = language.conditionings(tokens)[0][0][0]
        wanted = merged.network.connector(expected)
        return [plain, len(reads), torch.equal(first, again), bool((moved - wanted).abs().max() < 1e-4),
                bool((moved - first).abs().max() > 1e-3), torch.equal(back, first)]  # fmt: skip

    assert in_host(look, folder=loose_checkpoint) == [0, 1, True, True, True, True]


def test_an_interrupt_ends_decoding_at_the_next_token(in_host, loose_checkpoint):
    """Creators press stop because they have seen enough; 729 tokens later is too late."""

    def look(module, folder):
        import comfy.model_management as mm

        language_module = module(".nodes.host.language")
        generation = module(".nodes.host.generation")
        language, seen = language_module.load_language(folder, None, "fp32"), []

        def after_forward(*_):
            seen.append(len(seen))
            if len(seen) == 5:
                mm.interrupt_current_processing()

        language.network.register_forward_hook(after_forward)
        settings = generation.sampling_of({"sampling": "greedy"}, 1.0, "image tokens")
        try:
            language.generate_tokens(["a fox"], 0, settings)
        except mm.InterruptProcessingException:
            seen.append("interrupted")
        tokens = language.generate_tokens(["a fox"], 0, settings)
        return [seen.index("interrupted"), len(seen), tokens.codes.shape[1]]

    # Five passes until the interrupt, none after it; then prompt and 25 tokens, undisturbed.
    assert in_host(look, folder=loose_checkpoint) == [5, 32, 25]


@pytest.mark.slow
def test_the_diffusion_transformer_compiles_as_one_graph(in_host, loose_checkpoint):
    """A graph break in our forward would make TorchCompileModel slower than no compiling, without a word."""

    def look(module, folder):
        import torch
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        model = module(".nodes.host.model").load_diffusion(folder, None, "fp32")
        latent = {"samples": torch.zeros(1, 4, 16, 16), "downscale_ratio_spacial": 8}
        tokens = torch.randn(2, 1, 26, 40, generator=torch.Generator().manual_seed(0))
        compiled, pictures = model.clone(), []
        set_torch_compile_wrapper(compiled, backend="eager", fullgraph=True)
        with torch.inference_mode():
            for each in (model, compiled):
                sampler, conditions = module(".nodes.sample").DiffusionSampler, [[[one, {}]] for one in tokens]
                pictures.append(sampler.execute(each, *conditions, latent, 1, 2, 2.0, 1.0)[0]["samples"])
        return float((pictures[0] - pictures[1]).abs().max())

    assert in_host(look, folder=loose_checkpoint) < 1e-5


def test_the_language_models_weights_lie_still(in_host, loose_checkpoint):
    """Weights that dynamic VRAM pages in by parts: no CUDA graph can be recorded of those."""

    def look(module, folder):
        import comfy.model_patcher
        from comfy.model_patcher import ModelPatcher

        class Dynamic(ModelPatcher):
            pass

        comfy.model_patcher.CoreModelPatcher = Dynamic  # as the host does when it starts on a card
        parts = module(".nodes.host.loaders").load(folder, None, "fp32")
        why_not = module(".blip3o_core.decoding.direct").why_not_direct
        network, device = parts[0].network, parts[0].patcher.load_device
        kinds = [type(part).__name__ for part in (parts[0].patcher, parts[1])]
        with parts[0].loaded(0):
            return kinds, why_not(network, device, parts[0].dtype)

    assert in_host(look, folder=loose_checkpoint) == [["ModelPatcher", "Dynamic"], None]
