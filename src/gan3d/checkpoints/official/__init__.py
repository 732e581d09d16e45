"""Weights of official code, read safely and written back."""
