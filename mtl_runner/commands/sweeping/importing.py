"""Imported first by a process that others are forked from: a million objects are made that all stay."""

import gc

gc.disable()
