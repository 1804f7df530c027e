"""W&B as this machine has it: its login, its server, and the agent that may have started this process."""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from qexp.conf.errors import RunError, UserError

SECONDS_TO_ANSWER = 15
"""Of W&B, before it counts as out of reach."""


def wandb_login() -> str | None:
    """Where W&B credentials were found (never what they are), None without a login. Looks where wandb looks."""
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(variable):
            return variable
    home = Path.home()
    candidates = [os.environ["NETRC"]] if os.environ.get("NETRC") else [home / ".netrc", home / "_netrc"]
    for path in candidates:
        try:
            found = netrc.netrc(str(path)).authenticators(urlsplit(wandb_address()).netloc)
        except (OSError, netrc.NetrcParseError):
            continue
        if found and found[2]:
            return str(path)
    return None


def wandb_address() -> str:
    """Where the W&B server is: the environment's, else that of ``wandb login --host``, else the public one."""
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(folder / "settings")
    except configparser.Error:
        pass
    saved = parser.get("default", "base_url", fallback="https://api.wandb.ai")
    return os.environ.get("WANDB_BASE_URL") or saved


def require_wandb() -> None:
    """Raise ``UserError`` without a login, ``RunError`` where the server cannot be reached: wandb tries for long."""
    if wandb_login() is None:
        raise UserError("no W&B login here: run `wandb login` first")
    address = wandb_address()
    try:
        urlopen(address, timeout=SECONDS_TO_ANSWER).close()
    except HTTPError:
        return  # it answered
    except (OSError, ValueError) as error:
        raise RunError(f"W&B at {address} cannot be reached ({getattr(error, 'reason', error)})") from error


def by_wandb_agent() -> bool:
    """Whether an agent of a W&B sweep started this process: it waits for the figures of a run that it has named."""
    return bool(os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"))


def run_id(cell_id: str) -> str:
    """The W&B run's id: the cell's, so that nothing is there twice; in a W&B sweep the one that its agent gave."""
    return os.environ["WANDB_RUN_ID"] if by_wandb_agent() else cell_id
