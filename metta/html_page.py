"""A page that is one HTML file, with style, script and data in it: it fetches nothing, so it opens anywhere."""

import html
import json
import re
from pathlib import Path
from typing import Any


def html_page(folder: Path, scripts: tuple[str, ...], title: str, data: dict[str, Any]) -> str:
    """Fill `page.html` of the folder: {{title}}, {{style}} (page.css), {{script}} and {{data}} (as JSON).

    All in one pass, so nothing in the data is taken for a place to fill.
    """
    parts = {
        "title": html.escape(title),
        "style": _source(folder, "page.css"),
        "script": "\n".join(_source(folder, name) for name in scripts),
        # "<" would let a name end the script element that the data lies in.
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], _source(folder, "page.html"))


def _source(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")
