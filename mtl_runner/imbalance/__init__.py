"""Imbalance strategies, by the place where they act: the training data or the loss."""
