"""Operators: the equation, a reference implementation, and faster forms with the same numbers."""
