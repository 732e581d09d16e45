"""Cameras: poses, intrinsics, rays, distributions of poses, and camera paths for videos."""

from gan3d.camera.camera import LABEL_DIM, Camera, Rays, spanning_camera
from gan3d.camera.labels import check_labels, check_views
from gan3d.camera.paths import PathName, camera_path
from gan3d.camera.pinhole import (
    flip_camera_axes,
    intrinsics_from_eg3d_fov,
    intrinsics_from_focal,
    intrinsics_from_fov,
    intrinsics_from_pixels,
    look_at,
)
from gan3d.camera.poses import (
    DatasetPoses,
    FixedPose,
    GaussianPose,
    PosePrior,
    SphereUniformPose,
    TruncatedGaussianPose,
    UniformPose,
)
from gan3d.camera.trajectories import eg3d_wiggle, frontal, orbit, wiggle

__all__ = [
    "LABEL_DIM",
    "Camera",
    "DatasetPoses",
    "FixedPose",
    "GaussianPose",
    "PathName",
    "PosePrior",
    "Rays",
    "SphereUniformPose",
    "TruncatedGaussianPose",
    "UniformPose",
    "camera_path",
    "check_labels",
    "check_views",
    "eg3d_wiggle",
    "flip_camera_axes",
    "frontal",
    "intrinsics_from_eg3d_fov",
    "intrinsics_from_focal",
    "intrinsics_from_fov",
    "intrinsics_from_pixels",
    "look_at",
    "orbit",
    "spanning_camera",
    "wiggle",
]
