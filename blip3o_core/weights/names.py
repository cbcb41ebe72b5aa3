"""Where each part lies in a checkpoint: the beginnings of its tensors' names, as the authors' code saves them."""

SANA, VAE, CONNECTOR = "model.sana.", "model.sana_vae.", "model.diffusion_connector."
# Connectors of edit checkpoints, by the config switch that builds them (docs/reference.md 6.7). The second one is saved
# by the authors' code and used by nobody.
EDIT_CONNECTORS = {
    "use_und_image_vae": "model.und_image_vae_connector.",
    "use_und_image_vae_as_noise": "model.und_image_vae_as_noise_connector.",
    "use_tar_siglip_features": "model.tar_siglip_features_connector.",
}
REFERENCE_CONNECTOR = EDIT_CONNECTORS["use_und_image_vae"]
FEATURES_CONNECTOR = EDIT_CONNECTORS["use_tar_siglip_features"]
LANGUAGE_PREFIXES = (
    "model.embed_tokens.",
    "model.layers.",
    "model.norm.",
    "lm_head.",
    CONNECTOR,
    REFERENCE_CONNECTOR,
    FEATURES_CONNECTOR,
)
