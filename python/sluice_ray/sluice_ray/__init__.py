"""Runs sluice programs on a Ray cluster. The command is `sluice-ray`; see docs/ray.md."""

import os
import pathlib


def use_token_if_there() -> None:
    """Addresses ray:// ask for it explicitly, others are so by default. Ray reads it when it is imported."""
    at_home = pathlib.Path.home() / ".ray" / "auth_token"
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ or at_home.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


use_token_if_there()
