"""Encoders: a stem per input stream, then a list of stages that any sharing mode can split."""
