"""The end of day: timers that roll books over, close their dates, and write what accounts then held.

Each step is a command of its own on one book, so any of them can be the last before a crash; every process has the
timers, and the rows' own state makes each step happen once.
"""

from __future__ import annotations

from pay_core import ledger_queries
from pay_core.bookkeeping import CloseBook, RollBook, WaitForPrevious, WriteSnapshots
from pay_core.closing import BookState, ClosingState
from pay_core.tables import Book, Closing
from paykit import context as business_context
from paykit.events.timers import Timer
from paykit.store.command import Origin
from paykit.store.store import Store

_PAGES_MAX = 50  # of one firing: the rest is still due, and others get their turn


class EndOfDay:
    """Closes accounting dates of books.

    ``drain_ms``: how long a date waits for its payments; ``page_size``: journals that are added at a time.
    """

    def __init__(self, store: Store, drain_ms: int, page_size: int = 200) -> None:
        self._store = store
        self._drain_ms = drain_ms
        self._page_size = page_size

    def timers(self) -> tuple[Timer[Book], Timer[Closing]]:
        """Books whose date is over or drains; closed dates whose snapshots are to be written."""
        return Timer("book_due", Book, self.step), Timer("closing_due", Closing, self.write)

    async def step(self, book: Book) -> None:
        """Rolls a book over where it is time, and closes the date that drains once nothing of it is under way."""
        origin = Origin.timer(business_context.current())
        if book.state == BookState.OPEN:
            book = await self._store.run(RollBook(origin, book, self._drain_ms))
        if book.state == BookState.CLOSING:
            shadow = origin.context.shadow
            waiting_count = await ledger_queries.payments_under_way(self._store, book, shadow=shadow)
            await self._store.run(CloseBook(origin, book, waiting_count))

    async def write(self, closing: Closing) -> None:
        """Writes the snapshots of a closed date, page after page, where the date before has all of its own."""
        origin = Origin.timer(business_context.current())
        shadow = origin.context.shadow
        if not await ledger_queries.may_begin(self._store, closing, shadow=shadow):
            await self._store.run(WaitForPrevious(origin, closing))
            return
        for _ in range(_PAGES_MAX):
            if closing.state != ClosingState.PENDING:
                return
            page = await ledger_queries.closing_page(self._store, closing, self._page_size, shadow=shadow)
            command = WriteSnapshots(
                origin, closing, page.moves, page.journal_count, page.through, is_last=page.is_last
            )
            closing = await self._store.run(command)
