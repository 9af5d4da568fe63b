"""Imported last by a process that others are forked from: what it holds is there for good, and stays shared between them."""

import gc

gc.collect()
gc.freeze()
gc.enable()
