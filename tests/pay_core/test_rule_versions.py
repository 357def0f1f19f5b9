"""The rules in force of a running service: kept before they are active, by however many processes, and stamped."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from pay_core.rule_versions import RULES_SLOT, keep_rules
from pay_core.rules import RuleBook, load
from pay_core.tables import RuleVersion
from paykit.errors import ConfigurationError
from paykit.store.store import Store
from tests.pay_core.conftest import OpenStore
from tests.pay_core.world import RULES


async def kept(store: Store) -> list[tuple[int, str]]:
    """Versions and digests that are kept."""
    rows = await store.fetch(RuleVersion, select(RuleVersion.__table__), slot=RULES_SLOT, shadow=False)
    return sorted((row.rules_version, row.sha256) for row in rows)


def numbered(version: int) -> str:
    """The same rules under another version."""
    return RULES.text.replace(f"version: {RULES.version}", f"version: {version}")


async def test_many_processes_keep_a_version_once(open_store: OpenStore) -> None:
    stores = [await open_store() for _ in range(3)]
    await asyncio.gather(*(keep_rules(store, RULES) for store in stores for _ in range(4)))
    assert await kept(stores[0]) == [(RULES.version, RULES.sha256)]


async def test_a_version_with_another_text_is_refused_and_the_one_in_force_stays(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = await open_store()
    first = RULES.version
    second = numbered(first + 1)
    await keep_rules(store, load(second + "\n# by another process\n", "elsewhere"))
    path = tmp_path / "rules.yaml"
    path.write_text(RULES.text)
    book = RuleBook(path, on_activated=partial(keep_rules, store))
    await book.start()
    try:
        path.write_text(second)
        assert not await book.reload_if_changed()
        assert book.active.version == first
        assert "was active with another text" in (book.load_error or "")
        path.write_text(numbered(first + 2))
        assert await book.reload_if_changed()
        assert book.active.version == first + 2
        assert [version for version, _ in await kept(store)] == [first, first + 1, first + 2]
    finally:
        await book.stop()


async def test_a_service_does_not_start_with_a_version_that_was_another_text(open_store: OpenStore) -> None:
    store = await open_store()
    await keep_rules(store, RULES)
    with pytest.raises(ConfigurationError) as caught:
        await keep_rules(store, load(RULES.text + "\n# changed\n", "rules.yaml"))
    assert str(caught.value).startswith(f"rules.yaml: version {RULES.version}")
