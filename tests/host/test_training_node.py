"""ComfyUI's own Train LoRA node on our MODEL."""

import pytest


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "checkpointing", "offloading"),
    [("bf16", True, False), ("fp32", False, True)],
)
def test_the_stock_training_node_trains_a_lora_that_acts(look, dtype, checkpointing, offloading):
    """Catches a model that the host's training cannot differentiate, and a LoRA whose names match nothing."""
    losses, missed, moved, same = look(f"""
        import comfy.sd, comfy.lora, inspect
        plain = render(model)
        node = stock("train", "TrainLoraNode")
        values = dict(
            model=model, latents={{"samples": torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(4))}},
            positive=condition(1), batch_size=1, grad_accumulation_steps=1, steps=12, learning_rate=0.02, rank=4,
            optimizer="AdamW", loss_function="MSE", seed=0, training_dtype="{dtype}", lora_dtype="{dtype}",
            quantized_backward=False, algorithm="LoRA", gradient_checkpointing={checkpointing}, checkpoint_depth=1,
            offloading={offloading}, existing_lora="[None]", bucket_mode=False, bypass_mode=False,
        )
        lora, loss_map, steps = node.execute(**{{name: [value] for name, value in values.items()}}).args
        patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
        found = comfy.lora.model_lora_keys_unet(model.model, {{}})
        missed = [key for key in lora if not any(key.startswith(name + ".") for name in found)]
        moved = float((render(patched) - plain).abs().max())
        print(json.dumps([loss_map["loss"], missed, moved, bool(torch.equal(render(model), plain))]))
    """)
    assert sum(losses[-4:]) < sum(losses[:4]), losses
    assert not missed and moved > 0.01 and same
