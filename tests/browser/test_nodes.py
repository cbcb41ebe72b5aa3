"""What the page shows of our nodes beside their widgets: errors in words, the colours of wires, notes."""

from tools.comfyui.graphs import text_to_image

WIRES = ("BLIP3O_LM", "BLIP3O_TATOK", "BLIP3O_TOKENS", "BLIP3O_REFERENCE")


def test_a_missing_checkpoint_is_told_in_the_notification(frontend):
    """Catches a page that says "Invalid input" or "failed", with the sentence behind two clicks."""
    frontend.load_prompt(text_to_image("absent"))
    ended, _ = frontend.run()
    frontend.page.wait_for_function(
        "() => [...document.querySelectorAll('.p-toast-message')].some(e => e.innerText.includes('models/blip3o'))"
    )
    told = " ".join(frontend.toasts())
    assert ended == "execution_error" and "'absent'" in told and "Put the checkpoint's folder" in told


def test_our_wires_have_colours_of_their_own(frontend):
    """Catches four kinds of wire in one grey, and colours that are gone after another palette is chosen."""
    look = """async types => {
        const root = getComputedStyle(document.documentElement), seen = []
        for (const palette of ["light", "dark"]) {
            await window.app.extensionManager.setting.set("Comfy.ColorPalette", palette)
            seen.push(types.map(type => window.LGraphCanvas.link_type_colors[type]))
        }
        return [...seen, types.map(type => window.app.canvas.default_connection_color_byType[type]),
                types.map(type => root.getPropertyValue(`--color-datatype-${type}`).trim())]
    }"""
    first, *others = frontend.page.evaluate(look, list(WIRES))
    assert len(set(first)) == 4 and all(colour.startswith("#") for colour in first)
    assert all(colours == first for colours in others)
