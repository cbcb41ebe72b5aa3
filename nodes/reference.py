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
            has_intermediate_output=True,  # so that notes are shown from the cache, too
            description="Prepares one to eight images for an edit. The prompt of the Token Generator then says what to "
            "change.",
            search_aliases=[
                "image edit",
                "image editing",
                "edit image",
                "blip3o edit",
                "img2img",
                "image to image",
                "reference image",
                "instruct edit",
                "kontext",
            ],
            inputs=[
                IMAGE_TOKENIZER.Input(
                    "image_tokenizer",
                    tooltip="Reads the images as tokens. From BLIP3o Loader, or from BLIP3o Image Tokenizer Loader.",
                ),
                io.Vae.Input("vae", tooltip="Reads the images as latents. From BLIP3o Loader."),
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplateNames(
                        io.Image.Input("image"), names=[f"image_{k}" for k in range(1, MAX_IMAGES + 1)], min=1
                    ),
                    tooltip="The images to edit or combine; the prompt calls them image 1, image 2 and so on. Every "
                    "image of a batch counts as one.",
                ),
                io.Combo.Input(
                    "fit",
                    options=FITS,
                    tooltip="How an image becomes the square that the model sees. 'stretch' (as trained) and 'pad' "
                    "keep all of it; 'crop' and 'authors' cut the sides off.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the first image may change. Add BLIP3o Masked Edit to keep every other pixel.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=8192,
                    optional=True,
                    advanced=True,
                    tooltip="Size of the edit in pixels, as the side of a square. 0 is the size that the checkpoint "
                    "was trained at.",
                ),
            ],
            outputs=[
                REFERENCE.Output(
                    "reference",
                    display_name="reference",
                    tooltip="The prepared images. Connect it to both BLIP3o Token Generator and BLIP3o Hidden-State "
                    "Conditioner.",
                ),
                TOKENS.Output(
                    "tokens",
                    display_name="tokens",
                    tooltip="The images as image tokens. Connect them to the Conditioner to see what tokens alone "
                    "keep.",
                ),
                io.Latent.Output(
                    "latent",
                    display_name="latent",
                    tooltip="The first image as a latent, with the mask. Connect it to the sampler: it sets the size.",
                ),
                io.String.Output(
                    "info",
                    display_name="info",
                    tooltip="How each image was resized, as text. Preview as Text shows it.",
                ),
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
            search_aliases=[
                "inpaint",
                "inpainting",
                "masked edit",
                "blip3o mask",
                "composite",
                "keep unchanged",
                "paste back",
            ],
            inputs=[
                # First: what ComfyUI passes on when the node is bypassed.
                io.Image.Input("edited", tooltip="The edited image, from VAE Decode. It is resized to the original."),
                io.Image.Input("original", tooltip="The image before the edit."),
                io.Mask.Input(
                    "mask",
                    tooltip="White where the edit shows, black where the original stays. It must be as large as the "
                    "original.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="0 gives a hard edge. Higher values blend edit and original over this many pixels, inside "
                    "the mask.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The original with the edit in it.")],
        )

    @classmethod
    def run(cls, original, edited, mask, feather=0):
        from .host.reference import composite_edit

        return io.NodeOutput(composite_edit(original, edited, mask, feather))
