"""Network layers shared by several models, one kind per module."""
