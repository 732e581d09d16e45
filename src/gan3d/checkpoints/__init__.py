"""Checkpoints: training state on disk (`training`), and with the EG3D issue the portable format and the importers."""
