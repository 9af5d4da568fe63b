"""Data sets: each option of the group ``dataset`` is a class whose ``load()`` returns a ``Data``."""
