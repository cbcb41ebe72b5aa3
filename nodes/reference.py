"""Images -> what an edit starts from; and edits that stay inside a mask."""

from .comfy_api import io
from .inputs import Node
from .sockets import CATEGORY, IMAGE_TOKENIZER, REFERENCE, TOKENS

MAX_IMAGES = 8
FITS = ["stretch", "pad", "crop", "authors"]


class EditReferenceEncoder(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oEditReferenceEncoder",
            display_name="BLIP3o Edit-Reference Encoder",
            category=CATEGORY,
            description="Encodes one to eight images for an edit, as image tokens and as latents. A new prompt or seed "
            "does not encode them again.",
            search_aliases=["blip3o edit", "reference image", "image to image", "img2img", "kontext", "instruct edit"],
            inputs=[
                IMAGE_TOKENIZER.Input(
                    "image_tokenizer", tooltip="From BLIP3o Loader, or from BLIP3o Image Tokenizer Loader."
                ),
                io.Vae.Input("vae", tooltip="From BLIP3o Loader."),
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplateNames(
                        io.Image.Input("image"), names=[f"image_{k}" for k in range(1, MAX_IMAGES + 1)], min=1
                    ),
                    tooltip="The images to edit or combine; in the prompt they are image 1, image 2, ... Every image "
                    "of a batch counts.",
                ),
                io.Combo.Input(
                    "fit",
                    options=FITS,
                    tooltip="How an image becomes the square that the tokens describe; 'stretch' is as trained. With "
                    "'crop' and 'authors' the latents show only its centre, otherwise all of it.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="White where the first image may change."),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=8192,
                    optional=True,
                    advanced=True,
                    tooltip="Size of the latents in pixels, as the side of a square. 0 takes the size that the "
                    "checkpoint was trained at.",
                ),
            ],
            outputs=[
                REFERENCE.Output(
                    "reference",
                    display_name="reference",
                    tooltip="Connect it to BLIP3o Token Generator and BLIP3o Hidden-State Conditioner.",
                ),
                TOKENS.Output(
                    "tokens",
                    display_name="tokens",
                    tooltip="The images as image tokens. Render them to see what tokens alone keep of an image.",
                ),
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="The first image as a latent: the size of the edit."
                ),
                io.String.Output("info", display_name="info", tooltip="How each image was resized."),
            ],
        )

    @classmethod
    def run(cls, image_tokenizer, vae, images, fit=FITS[0], mask=None, resolution=0):
        from .host.reference import encode_images

        reference, tokens, latent = encode_images(image_tokenizer, vae, images, fit, mask, resolution)
        info = "\n".join(reference.summary())
        return io.NodeOutput(reference, tokens, latent, info, ui={"text": (info,)})


class MaskedEdit(Node):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="BLIP3oMaskedEdit",
            display_name="BLIP3o Masked Edit",
            category=CATEGORY,
            description="Puts an edit into the original image, at the size of the original. Outside the mask every "
            "pixel stays as it was.",
            search_aliases=["composite", "inpaint", "keep unchanged", "blip3o mask", "paste back"],
            inputs=[
                # First: what ComfyUI passes on when the node is bypassed.
                io.Image.Input("edited", tooltip="The edit, from VAE Decode. It is resized to the original."),
                io.Image.Input("original", tooltip="The image before the edit."),
                io.Mask.Input("mask", tooltip="White where the edit shows. It must be as large as the original."),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Blend over this many pixels, inside the mask.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The original with the edit in it.")],
        )

    @classmethod
    def run(cls, original, edited, mask, feather=0):
        from .host.reference import composite_edit

        return io.NodeOutput(composite_edit(original, edited, mask, feather))
