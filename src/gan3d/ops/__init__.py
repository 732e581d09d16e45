"""Operations: equation, reference in plain torch, choice of implementation."""
