"""What a user chooses about the references of an edit: how they reach the diffusion transformer, and how strongly.

The tokens of a reference are always in the prompt. Besides, a checkpoint may support (docs/reference.md, section 6):

- cross: the reference's latents are extra cross-attention tokens, made by a connector of their own.
- noise: the reference's latents stand to the right of the noisy latents, on width.
- features: the prompt carries the image tokenizer's features in place of the tokens. Not a user's choice.

The network calls are in `reference_conditioning`.
"""

from dataclasses import dataclass, replace

from ..errors import Blip3oError

MAX_STRENGTH = 10.0


@dataclass(frozen=True)
class ReferenceMode:
    """The uses of a reference that are on: those that a checkpoint supports, or those that a run asks for."""

    cross: bool = False
    noise: bool = False
    features: bool = False

    @classmethod
    def from_switches(cls, switches: dict[str, bool]) -> "ReferenceMode":
        """What config.json of a checkpoint says (docs/reference.md, section 6.7)."""
        return cls(
            cross=switches["use_und_image_vae"] and not switches["only_use_und_image_vae_as_noise"],
            noise=switches["use_und_image_vae_as_noise"],
            features=switches["use_tar_siglip_features"],
        )

    def select(self, name: str, strengths: "Strengths", where: str) -> tuple[str, "ReferenceMode"]:
        """The option `name` of REFERENCE_MODES on a checkpoint that supports this mode -> its name and what it means.

        "auto" becomes the name of everything that is supported. `where` names the checkpoint in errors. Raises
        Blip3oError for a mode that the checkpoint lacks, and for a strength that would have no effect.
        """
        shown = f"reference_mode {name!r}"
        if name == "auto":
            modes = {key: mode for key, mode in REFERENCE_MODES.items() if mode}
            name = next(key for key, mode in modes.items() if (mode.cross, mode.noise) == (self.cross, self.noise))
            shown = f"reference_mode 'auto' (here {name!r})"
        mode = replace(REFERENCE_MODES[name], features=self.features)
        for use, (description, switches) in _USES.items():
            if getattr(mode, use) and not getattr(self, use):
                raise Blip3oError(
                    f"{shown} uses reference images {description}, but {where} does not support that: it needs "
                    f"{switches} in config.json. Use 'auto', or load BLIP3o-NEXT-edit-VAE, which supports all modes."
                )
            strength = getattr(strengths, use)
            if strength != 1 and not getattr(mode, use):
                raise Blip3oError(
                    f"{use}_strength is {strength:g}, but {shown} does not use reference images {description}. Set "
                    f"{use}_strength to 1, or choose a reference_mode and a checkpoint that use it."
                )
        return name, mode


# By attribute of ReferenceMode: how an error describes it, and the switches of config.json that turn it on.
_USES = {
    "cross": ("in cross-attention", "use_und_image_vae on and only_use_und_image_vae_as_noise off"),
    "noise": ("as clean latents next to the noisy latent", "use_und_image_vae_as_noise on"),
}

# The options that users choose from. "auto" is everything that the checkpoint supports.
REFERENCE_MODES = {
    "auto": None,
    "tokens": ReferenceMode(),
    "cross": ReferenceMode(cross=True),
    "noise": ReferenceMode(noise=True),
    "both": ReferenceMode(cross=True, noise=True),
}


@dataclass(frozen=True)
class Strengths:
    """How much the prompt and each use of the references count: 1 is as trained, 0 turns it off.

    Strengths are this project's addition. `text` goes from the null condition (0) to the language model's (1). `cross`
    multiplies the weight of the reference tokens in attention. `noise` blends the predictions with and without the
    references next to the noisy latent.
    """

    text: float = 1.0
    cross: float = 1.0
    noise: float = 1.0

    def __post_init__(self):
        for name in ("text", "cross", "noise"):
            value = getattr(self, name)
            if not 0 <= value <= MAX_STRENGTH:  # written so that NaN fails
                raise Blip3oError(f"{name}_strength is {value}. It must be 0 to {MAX_STRENGTH:g}; 1 is as trained.")
