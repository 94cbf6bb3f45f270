"""Where tests fork processes from: one server for each pytest process.

The server imports once what the forked processes need. Its imports are named here only: a second
list would replace the first.
"""

from __future__ import annotations

from multiprocessing import get_context

forkserver = get_context("forkserver")
forkserver.set_forkserver_preload(["tests.dbt.imported", "tests.unit.test_landing"])
