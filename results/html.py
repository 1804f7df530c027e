"""What the HTML pages share: templates that escape everything they are given, and a policy that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, script: str = "", **values: Any) -> str:
    """The page ``template`` with ``values``, none of which can be anything but text in it.

    ``script``: a file of the templates that the page holds. The page's policy allows that script by its hash and no
    other, and nothing from any other place.
    """
    from markupsafe import Markup

    source = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"
    return _environment().get_template(template).render(policy=policy, script=Markup(source), **values)


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
