"""Every file in workflows/ runs as it is, over HTTP, on the bundled model."""

import io

import pytest
from PIL import Image

from tests.host.workflow import WORKFLOWS, load_workflow, node_of, to_prompt

pytestmark = pytest.mark.host
NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_the_workflow_draws_a_picture(client, name):
    result = client.run(to_prompt(load_workflow(name), client.object_info()), timeout=300)
    assert result.status == "success", result.error
    for image in result.images:
        Image.open(io.BytesIO(client.view(**image))).verify()
    assert result.images


def test_a_new_noise_seed_renders_again_without_writing_a_token(client):
    prompt = to_prompt(load_workflow("text_to_image"), client.object_info())
    client.run(prompt, timeout=300)
    sampler, inputs = node_of(prompt, "BLIP3oDiffusionSampler")
    inputs["noise_seed"] += 1
    result = client.run(prompt, timeout=300)
    kept = {node_of(prompt, f"BLIP3o{part}")[0] for part in ("Loader", "TokenGenerator", "HiddenStateConditioner")}
    assert kept <= result.cached and sampler in result.executed
