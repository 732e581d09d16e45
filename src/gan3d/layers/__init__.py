"""The only copy of the layers that models share."""
