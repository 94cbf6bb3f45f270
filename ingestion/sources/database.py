"""The connection to the source database, MySQL or MariaDB: opened, lost, opened again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from ingestion.errors import SourceError

#: How long a server that went away is waited for, in seconds, before a run ends.
PATIENCE = 60.0

#: A server silent for longer is taken for lost; sorting a table without an index takes a while.
_READ_SECONDS = 600
#: The same while the connection is opened.
_GREETING_SECONDS = 30
_LONGEST_PAUSE = 5.0
# The protocol's error numbers.
_NO_DATABASE = (1049, 1044)
_NOT_ADMITTED = (1045, 1129, 1130, 1251, 1698, 2059)
#: No server listens there, or there is no such host.
_NOT_THERE = (2002, 2003)
_NO_TABLE = (1142, 1146)
#: Away, starting, stopping, crowded, or this connection was ended.
_PASSING = frozenset([0, 1040, 1053, 1203, 1205, 1213, 1317, 1927, 2002, 2003, 2006, 2013, 2014])
_PASSING |= frozenset([1158, 1159, 1160, 1161])

T = TypeVar("T")


class DatabaseError(SourceError):
    """The database cannot be used at all; no table of it can be read."""


class Database:
    """One connection to a database, opened again where it is lost.

    Args:
        url: an address of SQLAlchemy's; it may hold a password and is never shown.
        patience: seconds after which a server that went away and stays away is an error.
        notice: told once, each time the server goes away.
        now: seconds of a clock that never goes back.
        sleep: waits some seconds.

    Attributes:
        location: the address for people, without user and password.

    Raises:
        DatabaseError: the address is none of a MySQL database.
    """

    def __init__(
        self,
        url: str,
        *,
        patience: float = PATIENCE,
        notice: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        address = _address(url)
        self.location = f"{address.host}:{address.port or 3306}/{address.database}"
        self._user = address.username or ""
        try:
            self._engine = create_engine(
                address,
                poolclass=NullPool,
                # All reads of a connection see the state that the first one saw.
                isolation_level="REPEATABLE READ",
                connect_args={
                    "connect_timeout": 10,
                    "read_timeout": _GREETING_SECONDS,
                    # Times as the contract reads them; and a commit may keep the server waiting.
                    "init_command": "SET time_zone = '+00:00', net_write_timeout = 600",
                },
            )
        except (ArgumentError, ValueError, TypeError) as error:
            raise DatabaseError(_not_an_address()) from error
        self._patience = patience
        self._notice = notice
        self._now = now
        self._sleep = sleep
        self._connection: Connection | None = None
        self._driver: Any = None
        self._away_since: float | None = None
        self._attempts = 0
        self._was_reached = False

    def connection(self) -> Connection:
        """The open connection, or a new one where there is none.

        Raises:
            DBAPIError: it cannot be opened, see :meth:`endure`.
            DatabaseError: it cannot be opened, ever.
        """
        if self._connection is None:
            try:
                self._connection = self._engine.connect()
                self._driver = self._connection.connection.dbapi_connection
            except RuntimeError as error:  # a way to sign in that needs a missing package
                raise DatabaseError(f"{self.location}: {error}") from error
            except (TypeError, ValueError, AttributeError, LookupError, OSError) as error:
                raise DatabaseError(
                    f"{self.location}: {error}; look at what follows '?' in SOURCE_DATABASE_URL"
                ) from error
            self._driver._read_timeout = _READ_SECONDS
            self._was_reached = True
        return self._connection

    def another(self) -> Database:
        """The same database, to be reached by a connection of its own."""
        return Database(
            self._url,
            patience=self._patience,
            notice=self._notice,
            now=self._now,
            sleep=self._sleep,
        )

    def run(self, action: Callable[[Connection], T]) -> T:
        """The result of an action, which is begun anew where the connection is lost.

        Raises:
            SourceError: the statement cannot be executed.
            DatabaseError: the server does not let us in, is not there, or stays away.
        """
        while True:
            try:
                result = action(self.connection())
            except DBAPIError as error:
                self.endure(error)
            else:
                self.answered()
                return result

    def answered(self) -> None:
        """Take notice that the server works: patience begins anew."""
        self._away_since = None
        self._attempts = 0

    def endure(self, error: DBAPIError) -> None:
        """Drop the connection and wait a moment, where trying again may help.

        A server that was reached and is not there now may be restarting. One that was never reached
        is an address that is wrong or a server that was not started.

        Raises:
            SourceError: it does not help.
            DatabaseError: it does not help with any table, or was tried for long enough.
        """
        self.drop()
        number, said = _said(error)
        if number not in _PASSING and not error.connection_invalidated:
            raise self._explained(number, said) from error
        if number in _NOT_THERE and not self._was_reached:
            raise DatabaseError(
                f"{self.location} cannot be reached: {said}; start the server ('make stack' starts "
                "one on this machine), or correct host and port in SOURCE_DATABASE_URL or --url"
            ) from error
        now = self._now()
        if self._away_since is None:
            self._away_since = now
            self._notice(f"{self.location}: {said}; trying again for {self._patience:.0f} s")
        left = self._away_since + self._patience - now
        if left <= 0:
            raise DatabaseError(
                f"{self.location} could not be reached for {self._patience:.0f} s: {said}; start "
                "the server or set SOURCE_DATABASE_URL, and run again: nothing is lost or repeated"
            ) from error
        self._attempts += 1
        pause = random.uniform(0.05, min(_LONGEST_PAUSE, 0.1 * 2 ** min(self._attempts, 10)))
        self._sleep(min(left, pause))

    def drop(self) -> None:
        """Leave the connection, whatever it is in the middle of."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # PyMySQL reads a result that was left in its middle to its end, and tries to even where
        # the connection is gone.
        result = getattr(self._driver, "_result", None)
        if result is not None:
            result.unbuffered_active = False
        connection.invalidate()
        connection.close()

    def _explained(self, number: int, said: str) -> SourceError:
        if number in _NOT_ADMITTED:
            return DatabaseError(
                f"{self.location} does not admit user {self._user!r}: {said}; "
                "set the user and the password in SOURCE_DATABASE_URL"
            )
        if number in _NO_DATABASE:
            return DatabaseError(
                f"{self.location}: {said}; set another database in SOURCE_DATABASE_URL"
            )
        if number in _NO_TABLE:
            return SourceError(f"{self.location}: {said}; create it or grant the right to read it")
        return SourceError(f"{self.location}: {said} (error {number})")


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise DatabaseError(_not_an_address()) from error
    if address.get_backend_name() not in ("mysql", "mariadb"):
        raise DatabaseError(
            f"{address.get_backend_name()} databases cannot be read, only MySQL and MariaDB; "
            "write mysql+pymysql://user:password@host:3306/database"
        )
    if not address.host or not address.database:
        raise DatabaseError(_not_an_address())
    return address.set(drivername="mysql+pymysql")


def _not_an_address() -> str:
    return (
        "the source database's address cannot be understood; write "
        "mysql+pymysql://user:password@host:3306/database in SOURCE_DATABASE_URL or --url"
    )


def _said(error: DBAPIError) -> tuple[int, str]:
    """The server's error number and its words."""
    parts: tuple[Any, ...] = getattr(error.orig, "args", ())
    number = parts[0] if parts and isinstance(parts[0], int) else -1
    words = str(parts[1] if len(parts) > 1 else error.orig).strip() or "the connection was lost"
    return number, " ".join(words.split())[:300]
