"""What ComfyUI's nodes ask of a model acts, or is refused by name. Ignored, it would look as if it had worked."""

import pytest

from tests.support.tiny_checkpoint import Sizes, make_checkpoint


def test_wrappers_of_the_network_act(look):
    """Catches wrappers that are never called: EasyCache then does nothing, and says that it is on."""
    counts, plain, changed, same = look("""
        from comfy.patcher_extension import WrappersMP
        calls = []
        model.model.diffusion_model.transformer_blocks[0].register_forward_hook(lambda *_: calls.append(1))
        plain = render(model, steps=20)
        counts = [len(calls)]
        for name in ("EasyCacheNode", "LazyCacheNode"):
            calls.clear()
            [cached] = stock("easycache", name).execute(model, 0.5, 0.15, 0.95, False).args
            assert torch.isfinite(render(cached, steps=20)).all()
            counts.append(len(calls))

        def in_place(executor, x, *rest, **named):
            again = x.clone()
            x.add_(5)
            return executor(again, *rest, **named)

        def half(executor, *given, **named):
            return executor(*given, **named) / 2

        results = []
        for wrapper in (in_place, half):
            wrapped = model.clone()
            wrapped.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", wrapper)
            results.append(render(wrapped, steps=20))
        print(json.dumps([counts, float(plain.std()), float((results[1] - plain).abs().max()),
                          bool(torch.equal(results[0], plain))]))
    """)
    assert counts[0] >= 20 and counts[1] < counts[0] and counts[2] < counts[0]
    assert changed > 0.01 * plain and same


def test_patches_of_attention_and_blocks_are_refused(look):
    """Catches patches that do nothing without a word, while what they cost is paid."""
    said, drawn = look("""
        def patched(file, name, *values, **named):
            made = stock(file, name).execute(model, *values, **named)
            return getattr(made, "args", made)[0]

        made = {
            "PerturbedAttentionGuidance attn1": patched("pag", "PerturbedAttentionGuidance", 3.0),
            "SkipLayerGuidanceDiT dit": patched("slg", "SkipLayerGuidanceDiT", 3.0, 0.0, 1.0, "0", "1", 0.0),
            "SkipLayerGuidanceDiTSimple dit": patched("slg", "SkipLayerGuidanceDiTSimple", 0.0, 1.0, "0", "1"),
            "HyperTile attn1_patch": patched("hypertile", "HyperTile", 256, 2, 0, False),
            "TomePatchModel attn1_patch": patched("tomesd", "TomePatchModel", 0.3),
            "NAGuidance attn1_output_patch": patched("nag", "NAGuidance", 5.0, 0.5, 1.5),
            "SelfAttentionGuidance attn1": patched("sag", "SelfAttentionGuidance", 0.5, 2.0),
            "PatchModelAddDownscale input_block_patch": patched(
                "model_downscale", "PatchModelAddDownscale", 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic"
            ),
            "rope_options": patched("rope", "ScaleROPE", 2.0, 0.0, 1.0, 0.0, 1.0, 0.0),
            "attn2_patch": model.clone(),
            "double_block": model.clone(),
            "optimized_attention_override": model.clone(),
        }
        made["attn2_patch"].set_model_attn2_patch(lambda *_: None)
        made["double_block"].set_model_double_block_patch(lambda *_: None)
        options = made["optimized_attention_override"].model_options["transformer_options"]
        options["optimized_attention_override"] = lambda *_: None
        said = {name: says(lambda: render(patched)) for name, patched in made.items()}
        unused = model.clone()
        unused.model_options["transformer_options"] |= {"patches": {"attn1_patch": []}, "patches_replace": {"dit": {}}}
        print(json.dumps([said, says(lambda: render(unused))]))
    """)
    for name, sentence in said.items():
        assert sentence.startswith("Blip3oError: A node between BLIP3o Loader and the sampler asks for"), (
            name,
            sentence,
        )
        assert all(word in sentence for word in name.split()) and "Remove the node" in sentence, (name, sentence)
    assert drawn == "nothing"


def test_conditions_that_this_model_does_not_read_are_refused(look):
    """Catches a ControlNet, and what else other models read from a condition, that changes nothing without a word."""
    said, drawn = look("""
        import comfy.controlnet

        class Control(comfy.controlnet.ControlBase):
            def copy(self):
                return self

        image, control = torch.zeros(1, 128, 128, 3), Control()
        apply = nodes.ControlNetApplyAdvanced().apply_controlnet
        hinted = apply(condition(1), condition(2), control, image, 1.0, 0.0, 1.0)
        off = apply(condition(1), condition(2), control, image, 0.0, 0.0, 1.0)
        flux = stock("flux", "FluxGuidance").execute(condition(1), 3.5).args[0]
        method = stock("flux", "FluxKontextMultiReferenceLatentMethod").execute(condition(1), "offset").args[0]
        said = {
            "Apply ControlNet": says(lambda: render(model, *hinted)),
            "GLIGEN": says(lambda: render(model, condition(1, gligen=("position", model, [])))),
            "unCLIP": says(lambda: render(model, condition(1, unclip_conditioning=[{}]))),
            "FluxGuidance": says(lambda: render(model, flux)),
            "reference_mode": says(lambda: render(model, method)),
        }
        print(json.dumps([said, says(lambda: render(model, *off))]))
    """)
    for word, sentence in said.items():
        assert sentence.startswith("Blip3oError: The conditioning carries") and word in sentence, sentence
        assert "Remove" in sentence, sentence
    assert drawn == "nothing"


def test_what_does_not_fit_the_model_is_said_before_the_first_step(look):
    """Catches tracebacks of torch for latents, masks, areas and tokens of another model, and a start from NaN."""
    said, steps = look("""
        calls = []
        model.model.diffusion_model.register_forward_hook(lambda *_: calls.append(1))
        area, wide = nodes.ConditioningSetArea().append(condition(1), 64, 64, 512, 64, 1.0)[0], condition(1, width=48)
        nan = torch.full((1, 8, 16, 16), float("nan"))
        said = {
            "outside the image": says(lambda: render(model, area)),
            "width 40, but the conditioning has tokens of width 48": says(lambda: render(model, wide)),
            "attention mask": says(lambda: render(model, condition(1, attention_mask=torch.ones(1, 99)))),
            "(1, 8, 1, 16, 16)": says(lambda: render(model, latent={"samples": torch.ones(1, 8, 1, 16, 16)})),
            "16 channels": says(lambda: render(model, latent={"samples": torch.ones(1, 16, 16, 16)})),
            "NaN": says(lambda: render(model, latent={"samples": nan}, denoise=0.5)),
        }
        print(json.dumps([said, len(calls)]))
    """)
    for word, sentence in said.items():
        assert sentence.startswith("Blip3oError: ") and word in sentence, (word, sentence)
    assert steps == 0


def test_an_area_in_pixels_means_pixels_or_is_refused(look, tmp_path):
    """Catches the host's cells of 8 pixels taken for cells of 16 or 32: the prompt would cover another part."""
    folder = str(make_checkpoint(tmp_path / "bigcells", sizes=Sizes(vae_widths=(8, 16, 16, 16, 32))))
    pixels, share, fits = look(
        """
        latent = {"samples": torch.zeros(1, 8, 8, 8)}
        pixels = nodes.ConditioningSetArea().append(condition(1), 64, 64, 0, 0, 1.0)[0] + condition(5)
        share = nodes.ConditioningSetAreaPercentage().append(condition(1), 0.5, 0.5, 0.0, 0.0, 1.0)[0] + condition(5)
        small = module(".nodes.host.model").load_diffusion(arguments["small"], None, "fp32")
        print(json.dumps([says(lambda: render(model, pixels, latent=latent)),
                          says(lambda: render(model, share, latent=latent)), says(lambda: render(small, pixels))]))
        """.replace('arguments["small"]', repr(str(make_checkpoint(tmp_path / "small" / "model")))),
        folder,
    )
    assert "cell of this model has 16" in pixels and "ConditioningSetAreaPercentage" in pixels
    assert share == fits == "nothing"


def test_another_compute_dtype_acts(look):
    """Catches raw tables that stay in float32 and lift everything behind them: Model Compute Dtype then fails."""
    report, edit, back = look("""
        from comfy_extras.nodes_model_advanced import ModelComputeDtype
        plain, report, seen = render(model), {}, []
        block = model.model.diffusion_model.transformer_blocks[1]
        block.register_forward_hook(lambda _, given, result: seen.append(result.dtype))
        for dtype in ("fp32", "bf16", "fp16", "default"):
            seen.clear()
            result = render(ModelComputeDtype().patch(model, dtype)[0])
            report[dtype] = [str(seen[-1]), float((result - plain).abs().max() / plain.abs().max())]
        weights = str(model.model.diffusion_model.scale_shift_table.dtype)
        bf16 = module(".nodes.host.model").load_diffusion(arguments["folder"], None, "bf16")
        narrow = render(bf16)
        again = float((render(ModelComputeDtype().patch(bf16, "bf16")[0]) - narrow).abs().max() / narrow.abs().max())
        print(json.dumps([report, again, [weights, bool(torch.equal(render(model), plain))]]))
    """)
    assert [report[name][0] for name in ("fp32", "bf16", "fp16", "default")] == [
        "torch.float32", "torch.bfloat16", "torch.float16", "torch.float32"
    ]  # fmt: skip
    assert report["fp32"][1] == report["default"][1] == 0
    assert 0 < report["bf16"][1] < 0.1 and 0 < report["fp16"][1] < 0.02 and 0 < edit < 0.1
    assert back == ["torch.float32", True]


def test_a_dtype_that_overflows_is_refused_in_words(look):
    """Catches black images of fp16."""
    sentence = look("""
        from comfy_extras.nodes_model_advanced import ModelComputeDtype
        network = model.model.diffusion_model
        with torch.no_grad():
            network.proj_out.bias.fill_(1e6)
        print(json.dumps(says(lambda: render(ModelComputeDtype().patch(model, "fp16")[0]))))
    """)
    assert sentence.startswith("Blip3oError: ") and "float16" in sentence and "Model Compute Dtype" in sentence


def test_hidden_states_of_another_dtype_are_not_reused(look):
    """Catches an image drawn from the states of weights in another dtype, on devices that compute both in float32."""
    same, differ = look("""
        language = module(".nodes.host.language")
        settings = module(".nodes.host.generation").sampling_of({"sampling": "greedy"}, 1.0, "image tokens")
        wide, narrow = (language.load_language(arguments["folder"], None, dtype) for dtype in ("fp32", "bf16"))
        from dataclasses import replace
        with torch.inference_mode():
            tokens = wide.generate_tokens(["a fox"], 0, settings)
            reused = narrow.conditionings(tokens)[0][0][0]
            fresh = narrow.conditionings(replace(tokens, hidden=None, hidden_source=None))[0][0][0]
        print(json.dumps([bool(torch.equal(reused, fresh)), wide.identity != narrow.identity]))
    """)
    assert same and differ


@pytest.mark.parametrize("flag, engine", [(False, True), (True, False)])
def test_the_hosts_flag_against_cuda_graphs_is_obeyed(look, flag, engine):
    """Catches graphs that are recorded although the user turned them off with --disable-cuda-graphs."""
    allowed, said = look(f"""
        from comfy.cli_args import args
        args.disable_cuda_graphs = {flag}
        language = module(".nodes.host.language").load_language(arguments["folder"], None, "fp32")
        settings = module(".nodes.host.generation").sampling_of({{"sampling": "greedy"}}, 1.0, "image tokens")
        engine, seen = module(".blip3o_core.decoding.engine"), []
        choose = engine.choose_engine
        engine.choose_engine = lambda asked, job: seen.append(job.graphs) or choose(asked, job)
        with torch.inference_mode():
            language.generate_tokens(["a fox"], 0, settings)
        from dataclasses import replace
        interface = module(".blip3o_core.decoding.interface")
        job = interface.Job(language.network, 1, settings, torch.device("cpu"), torch.float32, seen[0])
        print(json.dumps([seen[0], engine.why_not("graph", job)]))
    """)
    assert allowed is engine and (said is None) is engine
