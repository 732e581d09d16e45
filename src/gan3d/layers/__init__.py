"""Network layers that several models share; each stands in the file of its noun."""
