"""Credentials that were typed where they would be kept: refused before anything is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from qexp.conf.errors import UserError

VARIABLES = ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""What wandb and Hugging Face read credentials from. qexp itself reads none of them."""
SHORTEST = 8
"""Characters of a value that is looked for: a shorter one would be found in anything."""
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}|\bwandb_v\d+_\w{20,}")


def refuse_secrets(overrides: Iterable[str]) -> None:
    """Raise ``UserError``, without repeating it, where an override holds a credential: records keep every override."""
    values = [value for name in VARIABLES if len(value := os.environ.get(name, "")) >= SHORTEST]
    for text in overrides:
        if _TOKEN.search(text) or any(value in text for value in values):
            key = text.lstrip("+~").partition("=")[0]
            where = "an override" if _TOKEN.search(key) or any(value in key for value in values) else key
            raise UserError(
                f"{where}: this is a credential, and records keep every override; give it to `wandb login` or "
                "`hf auth login`, or leave it in the environment"
            )
