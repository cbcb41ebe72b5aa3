"""A tour of what creators see from a folder of images to a LoRA."""

import pytest

from tests.browser.tour.steps import everywhere

pytestmark = pytest.mark.slow
pytest.importorskip("imagehash", reason="the `curate` extra is not installed")
pytest.importorskip("peft", reason="the `train` extra is not installed")
FOLDER = "BLIP3o-20-From-a-Folder-to-a-LoRA"
CURATE, TRAIN = "BLIP3oCurateImages", "BLIP3oTrainLoRAOnImages"


@pytest.mark.long
@everywhere
def test_a_folder_is_curated_and_learnt_on_the_page(tour):
    """Catches notes that cannot be read, and a node that shows no images of what was kept or learnt."""
    tour.open(FOLDER)
    tour.set(TRAIN, steps=2)
    assert tour.run().ended == "execution_success"
    shown = (
        """types => types.every(type => window.app.graph.nodes.find(node => node.type === type).imgs?.length === 1)"""
    )
    tour.page.wait_for_function(shown, arg=[CURATE, TRAIN], timeout=60_000)
    notes = tour.notes()
    tour.shot("curated")
    assert notes[CURATE].startswith("Kept 24 of 27 images. Dropped: ")
    assert notes[TRAIN].startswith("Saved as models/loras/BLIP3o-night")
