"""Whether a server that records are sent to still answers, asked when nothing else tells."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

#: Seconds without an answer after which a server is asked, and then until it is asked again.
CHECK_SECONDS = 2.0
#: Seconds without an answer after which a server is gone. A check that was answered the moment
#: before it went, or one that waits for its answer in vain, makes it no later.
SILENT_SECONDS = 7.0

#: A server that answers, one that takes no records, one that is gone; and one that was never used.
CONNECTED, FAILING, UNREACHABLE, UNUSED = "connected", "failing", "unreachable", "unused"


class Pulse:
    """When a server was last heard of.

    Acknowledgements count, so that a server that takes records is not asked besides.

    Args:
        check: asks the server; raises unless it answers.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, check: Callable[[], Awaitable[object]], now: Callable[[], float]) -> None:
        self._check = check
        self._now = now
        self._heard_at = now()

    def heard(self) -> None:
        """Take notice of an answer."""
        self._heard_at = self._now()

    @property
    def silence(self) -> float:
        """Seconds since the last answer."""
        return self._now() - self._heard_at

    @property
    def gone(self) -> bool:
        """Whether the server has been silent for too long."""
        return self.silence > SILENT_SECONDS

    async def watch(self) -> None:
        """Ask the server from time to time, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if self.silence < CHECK_SECONDS:
                continue
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    await self._check()
            except Exception:  # of many kinds, all of which say that it does not answer
                continue
            self.heard()
