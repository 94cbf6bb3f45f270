"""Measurements of landing and building, peers side by side; never part of the tests."""
