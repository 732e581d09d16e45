"""Metrics: one evaluation protocol for every model, written against the generator contract.

The names below import their modules on first use, because torchmetrics takes a second to import.
"""

import importlib

_HOMES = {
    "AttributeDrift": "gan3d.metrics.readings",
    "ConditioningDrift": "gan3d.metrics.readings",
    "DepthError": "gan3d.metrics.readings",
    "EpipolarLines": "gan3d.metrics.epipolar",
    "Equivariance": "gan3d.metrics.equivariance",
    "FaceIdentity": "gan3d.metrics.faces",
    "FacePoseError": "gan3d.metrics.landmarks",
    "FidelityFeatures": "gan3d.metrics.features",
    "FrechetDistance": "gan3d.metrics.frechet",
    "HeadNet": "gan3d.metrics.headnet",
    "HeadReading": "gan3d.metrics.headnet",
    "HeadRelief": "gan3d.metrics.relief",
    "HeadTurn": "gan3d.metrics.turn",
    "MobileNetV2": "gan3d.metrics.mobilenet",
    "PoseError": "gan3d.metrics.readings",
    "Protocol": "gan3d.metrics.measure",
    "Reconstruction": "gan3d.metrics.refit",
    "Reprojection": "gan3d.metrics.reprojection",
    "ScriptedFeatures": "gan3d.metrics.features",
    "SelfConsistency": "gan3d.metrics.refit",
    "SmallFeatures": "gan3d.metrics.frechet",
    "ViewMetric": "gan3d.metrics.views",
    "background_behind": "gan3d.metrics.relief",
    "bulge": "gan3d.metrics.alarms",
    "camera_leak": "gan3d.metrics.alarms",
    "face_pose": "gan3d.metrics.landmarks",
    "feature_moments": "gan3d.metrics.frechet",
    "flatness": "gan3d.metrics.alarms",
    "frechet_distance": "gan3d.metrics.frechet",
    "inception_score": "gan3d.metrics.inception",
    "kernel_distance": "gan3d.metrics.kernel",
    "measure_equivariance": "gan3d.metrics.equivariance",
    "measure_heads": "gan3d.metrics.heads",
    "measure_views": "gan3d.metrics.views",
    "mobilenet_features": "gan3d.metrics.mobilenet",
    "opaque_share": "gan3d.metrics.alarms",
    "precision_and_recall": "gan3d.metrics.precision_recall",
    "relief_slope": "gan3d.metrics.relief",
    "slerp": "gan3d.metrics.path_length",
    "trimmed_mean": "gan3d.metrics.path_length",
    "turn_slope": "gan3d.metrics.turn",
    "z_sensitivity": "gan3d.metrics.alarms",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(
            f"module 'gan3d.metrics' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
