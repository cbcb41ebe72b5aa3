"""Pictures -> what an edit starts from; and edits that stay inside a mask."""

from .compat import io
from .sockets import CATEGORY, REFERENCE, TATOK, TOKENS

MOST = 8


class EditReferenceEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oEditReferenceEncoder",
            display_name="BLIP3o Edit-Reference Encoder",
            category=CATEGORY,
            description="Encodes one to eight pictures for an edit, once: as image tokens, and as latents.",
            search_aliases=["blip3o edit", "reference image", "image to image", "kontext", "composition"],
            inputs=[
                TATOK.Input("image_tokenizer", tooltip="From BLIP3o Loader: pictures to image tokens."),
                io.Vae.Input("vae", tooltip="From BLIP3o Loader: pictures to latents."),
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplateNames(
                        io.Image.Input("image"), names=[f"image_{k}" for k in range(1, MOST + 1)], min=1
                    ),
                    tooltip="In the instruction, image 1 is the first one. A batch counts as several.",
                ),
                io.Combo.Input(
                    "fit",
                    options=["stretch", "pad", "crop", "authors"],
                    tooltip="How a picture that is not square becomes tokens. stretch: as trained. pad, crop: no "
                    "distortion. Latents keep the whole picture and its aspect, but for crop and authors.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="White where the first image may change."),
                io.Int.Input(
                    "resolution", default=0, min=0, max=8192, optional=True, advanced=True,
                    tooltip="Latents are made at about this many pixels on a side. 0: what the checkpoint of "
                    "image_tokenizer draws; for ta_tok.pth that is 1024.",
                ),
            ],
            outputs=[
                REFERENCE.Output("reference", display_name="reference", tooltip="For generator and conditioner."),
                TOKENS.Output("tokens", display_name="tokens", tooltip="Of the pictures, to draw them again."),
                io.Latent.Output("latent", display_name="latent", tooltip="First picture: gives the edit its size."),
                io.String.Output("info", display_name="info", tooltip="What was resized to what."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, image_tokenizer, vae, images, fit="stretch", mask=None, resolution=0):
        from .host.reference import encode_images

        reference, tokens, latent = encode_images(image_tokenizer, vae, images, fit, mask, resolution)
        info = "\n".join(reference.described())
        return io.NodeOutput(reference, tokens, latent, info, ui={"text": (info,)})


class MaskedEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oMaskedEdit",
            display_name="BLIP3o Masked Edit",
            category=CATEGORY,
            description="Puts the edit into the original, at its own size. Outside the mask every pixel is untouched.",
            search_aliases=["composite", "inpaint", "keep unchanged", "blip3o mask"],
            inputs=[
                io.Image.Input("original", tooltip="The picture before the edit."),
                io.Image.Input("edited", tooltip="From VAE Decode; resized to the original."),
                io.Mask.Input("mask", tooltip="White where the edit shows."),
                io.Int.Input("feather", default=0, min=0, max=512, tooltip="Pixels, inside the mask, that blend over."),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="As large as the original.")],
        )

    @classmethod
    def execute(cls, original, edited, mask, feather=0):
        from .host.reference import composite_edit

        return io.NodeOutput(composite_edit(original, edited, mask, feather))
