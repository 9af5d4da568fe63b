"""Fixtures of the tests of tracking."""

from conftest_tracking import RunFolder, empty_database, run_folder, stored, unset, uri

__all__ = ["RunFolder", "empty_database", "run_folder", "stored", "unset", "uri"]
