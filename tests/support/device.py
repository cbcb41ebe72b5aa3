"""Where the servers of tests/host and tests/browser compute: `BLIP3O_TEST_DEVICE`, the CPU unless it says otherwise.

Graphs then ask for float32, and `close` and `equal` of tools/comfyui/graphs.py allow for another device's rounding.
"""

import pytest

from tools.comfyui.server import ON_CPU

needs_cpu = pytest.mark.skipif(not ON_CPU, reason="BLIP3O_TEST_DEVICE is set: this test compares with the CPU itself")
