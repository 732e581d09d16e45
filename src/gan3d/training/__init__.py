"""Training: the harness (Lightning), its losses, schedules, callbacks and loggers."""
