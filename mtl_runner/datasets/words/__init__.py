"""Texts and sentences: their files, vocabularies and preparation."""
