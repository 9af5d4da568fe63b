"""Interactions of users with items: what is known of both, and what they do."""
