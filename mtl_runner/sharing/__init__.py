"""Sharing modes: how the tasks' ways from input to features overlap."""
