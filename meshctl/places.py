"""Where settings files lie that a command is not told of."""

from __future__ import annotations

from pathlib import Path

from paykit.errors import ConfigurationError

STACK_DIRECTORY = Path("var/stack")
DEMO_DIRECTORY = Path("var/demo")


def found(config: Path | None) -> Path:
    """The settings file: the one that was named, else the stack's, else the last demo's; ConfigurationError."""
    candidates = [directory / "paymesh.toml" for directory in (STACK_DIRECTORY, DEMO_DIRECTORY)]
    path = config or next((each for each in candidates if each.exists()), None)
    if path is None:
        raise ConfigurationError("no settings file: name one with --config, or run meshctl up or meshctl demo first")
    return path
