"""The channels that docs/channels.md configures, as a provider made for tests is reached by them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "docs" / "channels.md"


def channels_of_page() -> dict[str, dict[str, Any]]:
    """The channel tables of all TOML blocks of the page, by name."""
    found: dict[str, dict[str, Any]] = {}
    for block in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL):
        found |= tomllib.loads(block)["channel_gateway"]["channels"]
    return found


def with_secrets(table: Any, secrets: dict[str, str]) -> Any:
    """The table with the content of each secret file in its place; every file of ``secrets`` has to be named."""
    if isinstance(table, dict):
        if set(table) == {"file"}:
            return {"value": secrets[Path(table["file"]).name]}
        return {key: with_secrets(value, secrets) for key, value in table.items()}
    return table
