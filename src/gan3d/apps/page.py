"""Pages of one file: style, pictures and videos inside, nothing from the network."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

MIME = {".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4"}


def page(title: str, body: str, *, generator: str, more: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML.
        generator: the tag that says which command made it.
        more: HTML for the end of its head: styles and scripts of its own.
    """
    parts = {"generated": generator, "title": html.escape(title), "body": body, "more": more}
    text = PAGE
    for name in ("generated", "title", "more", "body"):
        text = text.replace(f"{{{{{name}}}}}", parts[name])
    return text


def shown(path: Path, what: str) -> str:
    """A picture or a video as an element of the page."""
    if path.suffix == ".mp4":
        return f'<video controls loop muted autoplay playsinline src="{data_url(path)}"></video>'
    return f'<img alt="{html.escape(what)}" src="{data_url(path)}">'


def data_url(path: Path) -> str:
    """A file as a data URL."""
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def small_url(path: Path, side: int = 800) -> str:
    """A picture as a data URL, reduced if it is larger than displayed."""
    with Image.open(path) as picture:
        if max(picture.size) <= side:
            return data_url(path)
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{{generated}}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}}</title>
<style>
:root { color-scheme: light dark; --ink: #1d2025; --soft: #666c75; --line: #dcdfe4; --paper: #fff;
  --tile: #f5f6f8; --c0: #2866b8; --c1: #d0662a; --c2: #3c8d4e;
  --c3: #8a4bb5; --c4: #b8323c; --c5: #1d8f9c; --c6: #8c6d1f; --c7: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --soft: #9aa1ab; --line: #363b43;
  --paper: #16181c; --tile: #202329; --c0: #75a9ec; --c1: #eb9560; --c2: #7cc48c;
  --c3: #c39be0; --c4: #ef8088; --c5: #62c9d4; --c6: #d3b35c; --c7: #a7afbb; } }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 1180px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .8rem; border-bottom: 1px solid var(--line);
  padding-bottom: .35rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: .7rem; }
.tile { background: var(--tile); border-radius: 8px; padding: .7rem .9rem; }
.figure { font-size: 1.45rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.what { color: var(--soft); font-size: .82rem; line-height: 1.35; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .4rem; max-width: 70ch; }
figcaption span { white-space: nowrap; }
img, video { display: block; width: 100%; height: auto; image-rendering: pixelated;
  border-radius: 6px; background: #fff; }
.results { columns: 420px 2; column-gap: 1.6rem; }
.results figure { break-inside: avoid; padding-bottom: 1.4rem; }
.progress { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr));
  gap: .8rem; }
.progress figcaption { text-align: center; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 1.8rem 1.6rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .mark { stroke: var(--soft); stroke-dasharray: 4 4; }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
table { border-collapse: collapse; font-size: .9rem; }
th { text-align: left; color: var(--soft); font-weight: normal; padding: .2rem 1.2rem .2rem 0;
  vertical-align: top; }
summary { cursor: pointer; color: var(--soft); }
pre { background: var(--tile); border-radius: 8px; padding: 1rem; overflow-x: auto;
  font-size: .82rem; }
</style>
{{more}}</head>
<body>
{{body}}
</body>
</html>
"""
