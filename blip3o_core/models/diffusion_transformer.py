"""The diffusion transformer: diffusers' SanaTransformer2DModel (see `sana`), built from its config.json."""

from .known_fields import known_fields


def build(config: dict):
    """The network with untrained weights, or without any on the meta device."""
    from .sana import DiffusionTransformer

    return DiffusionTransformer.from_config(known_fields(config, DiffusionTransformer)).add_cross_attention()


def restore_buffers(transformer) -> None:
    """Compute the position table of a network that was built on the meta device: it is not stored in a checkpoint.

    The published model has no positions (`interpolation_scale` is null), so nothing happens there.
    """
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    config = transformer.config
    if config.interpolation_scale is not None:
        side = config.sample_size // config.patch_size
        table = get_2d_sincos_pos_embed(
            config.num_attention_heads * config.attention_head_dim,
            side,
            base_size=side,
            interpolation_scale=config.interpolation_scale,
            output_type="pt",
        )
        transformer.patch_embed.pos_embed = table.float().unsqueeze(0)
