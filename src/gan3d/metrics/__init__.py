"""Metrics: one evaluation protocol for every model. They know the generator contract, never a model."""

from gan3d.metrics.alarms import camera_leak, flatness, z_sensitivity
from gan3d.metrics.equivariance import Equivariance, measure_equivariance
from gan3d.metrics.features import FidelityFeatures, ScriptedFeatures
from gan3d.metrics.frechet import FrechetDistance, SmallFeatures, feature_moments, frechet_distance
from gan3d.metrics.inception import inception_score
from gan3d.metrics.kernel import kernel_distance
from gan3d.metrics.measure import Protocol
from gan3d.metrics.path_length import slerp, trimmed_mean
from gan3d.metrics.precision_recall import precision_and_recall

__all__ = [
    "Equivariance",
    "FidelityFeatures",
    "FrechetDistance",
    "Protocol",
    "ScriptedFeatures",
    "SmallFeatures",
    "camera_leak",
    "feature_moments",
    "flatness",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "measure_equivariance",
    "precision_and_recall",
    "slerp",
    "trimmed_mean",
    "z_sensitivity",
]
