"""The pages as a site. Without `--quiet`, with which mkdocs counts no warnings."""

import subprocess
import sys

import pytest

from tests.support.paths import TOP


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """Catches a link or an anchor that leads nowhere on the site, and a page that its navigation lacks."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="troubleshooting.html"' in start, "README is not the start of the site"
    help_page = (tmp_path / "site" / "nodes" / "BLIP3oLoader.html").read_text(encoding="utf-8")
    assert "models/blip3o" in help_page
