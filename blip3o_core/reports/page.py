"""The page of a report: one HTML file without scripts, which loads nothing."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import atomic_write, naming_failures

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "report.html"
_SIDE = 320  # pixels; larger images are made smaller
_STYLE = """
:root{color-scheme:light dark;--ink:#1c1917;--soft:#78716c;--line:#e7e5e4;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#f5f5f4;--soft:#a8a29e;--line:#44403c;--paper:#1c1917}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1100px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.charts{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:0;flex:0 1 350px}figcaption{font-weight:600}svg{width:100%;height:auto}
svg text{font-size:10px;fill:var(--soft)}.grid{stroke:var(--line)}.limit{stroke:#dc2626;stroke-dasharray:5 4}
.legend,.soft{color:var(--soft);font-size:.85rem;margin:.2rem 0}table{border-collapse:collapse}
td,th{border-bottom:1px solid var(--line);padding:.3rem .7rem;text-align:right}
.numbers td{white-space:nowrap}td:first-child,th:first-child{text-align:left}
.scroll{overflow-x:auto}.seeds td{text-align:left;vertical-align:top;border:0;width:180px}
.seeds img{width:170px;height:auto;display:block}.seeds img.small{image-rendering:pixelated}
.alarm{border-left:4px solid #dc2626;padding:.2rem .8rem;margin:.4rem 0}
.tiles{display:flex;flex-wrap:wrap;gap:.8rem}.tiles div{max-width:340px;overflow-wrap:anywhere}
.tiles img{display:block;max-width:100%}.tiles p{max-width:180px}.tiles .text{font-size:.85rem;margin:.2rem 0}
"""


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write pieces of HTML as a page, whole or not at all."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name="viewport" content="width=device-width"><title>'
        f"{html.escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    with naming_failures(path), atomic_write(path) as scratch:
        scratch.write_text(page, encoding="utf-8", errors="backslashreplace")


def section(title: str, charts: Sequence[str]) -> str:
    """Charts below a heading; '' where there are none."""
    drawn = "".join(charts)
    return f'<h2>{title}</h2><div class="charts">{drawn}</div>' if drawn else ""


def image_tag(data: bytes, kind: str, class_name: str = "") -> str:
    """An image inside the page. `kind`: png or jpeg."""
    style = f'class="{class_name}" ' if class_name else ""
    return f'<img {style}alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def thumbnail_tag(image: "Image") -> str:
    """An RGB image inside the page, at most 320 pixels wide and high; a very small one keeps its exact pixels."""
    small, data = image.copy(), io.BytesIO()
    small.thumbnail((_SIDE, _SIDE))
    exact = max(small.size) <= 128
    small.save(data, "PNG" if exact else "JPEG", quality=90)
    return image_tag(data.getvalue(), "png" if exact else "jpeg", "small" if exact else "large")
