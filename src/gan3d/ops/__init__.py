"""Operators: the equation, a reference that reads like it, and faster forms with the same
numbers.
"""
