"""Fits: one training to a model in a folder."""
