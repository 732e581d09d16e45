"""What a training will need, before it starts: memory by part, time, and what would make it fit."""
