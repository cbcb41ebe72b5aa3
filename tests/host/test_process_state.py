"""Loading in ComfyUI: what belongs to the whole process stays as it was, also for another thread meanwhile."""

import inspect
import textwrap

from tests.support import process_state

LOAD = """
    import json, logging, nodes, threading

    class Watched(list):
        "Filters of the root logger: notes every change, however short."
        changed = False

        def append(self, item):
            Watched.changed = True
            super().append(item)

    said, filters = [], logging.root.filters
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    load = module(".nodes.host.vae").load_vae
    load(arguments["folder"], None, "fp32")  # what the host and the libraries do once
    before = snapshot()
    logging.root.filters = Watched(filters)
    vae = load(arguments["folder"], None, "fp32")
    changed, logging.root.filters = Watched.changed, filters
    said = [line for line in said if "VAE" in line and "load device" not in line]
    whole = vae.model_size() == sum(p.nbytes for p in vae.first_stage_model.parameters())
    print(json.dumps([before, snapshot(), changed, said, whole]))
"""


def test_a_vae_is_loaded_without_a_filter_on_the_hosts_log(comfyui, loose_checkpoint):
    """Catches lines of other threads that are swallowed while a VAE loads, and a warning that looks like a failure."""
    source = inspect.getsource(process_state.snapshot) + textwrap.dedent(LOAD)
    before, after, filtered, said, whole = comfyui.run(source, folder=loose_checkpoint)
    assert process_state.changes(before, after) == {}
    assert not filtered and said == [] and whole
