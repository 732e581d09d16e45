"""Metrics: one evaluation protocol for every model. They know the generator contract, never a model."""

from gan3d.metrics.alarms import camera_leak, flatness, z_sensitivity
from gan3d.metrics.frechet import FrechetDistance, SmallFeatures, frechet_distance

__all__ = ["FrechetDistance", "SmallFeatures", "camera_leak", "flatness", "frechet_distance", "z_sensitivity"]
