"""Everything that a dbt process imports, imported once for all that are forked from this one."""

import sys

# pyspark takes a process whose main module is no file for one that runs doctests.
sys.modules["__main__"].__file__ = __file__
# This process is started with the interpreter's options of the one that runs the tests, which may
# say that nothing compiled is kept.
sys.dont_write_bytecode = False

import dbt.adapters.spark  # noqa: E402
import dbt.cli.main  # noqa: E402, F401

import dbt_lake  # noqa: E402, F401
import runner.commands  # noqa: E402, F401
