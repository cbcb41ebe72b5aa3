"""`tools.soak` in short: prompts of every kind at one server, which is after them as it was before."""

import pytest

from tools.comfyui.server import Server
from tools.soak import KINDS, Row, outcomes, soak, table

pytestmark = pytest.mark.host


@pytest.mark.long
def test_prompts_of_every_kind_leave_the_server_as_it_was(tmp_path):
    """Catches an image that changes after edits, interrupts and reloads, and threads, files or memory that pile up."""
    with Server(tmp_path) as server:
        rows = soak(server, 40, seed=2)
    assert all(row.fine for row in rows), outcomes(rows)
    assert {row.kind for row in rows} == set(KINDS)
    middle, last = rows[len(rows) // 2], rows[-5:]
    for name, more in {"threads": 1, "temporary": 0, "files": 3, "megabytes": 60}.items():
        assert max(getattr(row, name) for row in last) <= getattr(middle, name) + more, table(rows)


def test_what_is_not_as_it_must_be_is_counted():
    """Catches a soak that passes whatever happens."""
    good, bad = Row("text", "success", True, 0.1, 700, 5, 9, 0), Row("probe", "another image", False, 0.2, 701, 5, 9, 0)
    said = outcomes([good, bad])
    assert "not as they must: 1\n  prompt 2, probe: another image" in said
    assert "| 2 to 2 | 701 | 5 | 9 | 0 |  | 0.20 |" in table([good, bad])
