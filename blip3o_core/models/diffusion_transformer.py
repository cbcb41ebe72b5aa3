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
    config, embed = transformer.config, transformer.patch_embed
    if config.interpolation_scale is not None:
        built = type(embed)(
            height=config.sample_size,
            width=config.sample_size,
            patch_size=config.patch_size,
            in_channels=config.in_channels,
            embed_dim=config.num_attention_heads * config.attention_head_dim,
            interpolation_scale=config.interpolation_scale,
            pos_embed_type="sincos",
        )
        embed.pos_embed = built.pos_embed
