"""Frames per second of the viewer (gan3d.apps.looks), from a camera that moves.

    python benchmarks/viewer.py                  # all models, about two minutes

A frame is a picture of the image layer of a scene that is already computed, as a browser gets it:
rendered, as bytes, on its canvas, JPEG. At rest it has the full resolution, while the camera moves
that of the viewer's pace for ten frames per second.
"""

import argparse
import io
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe, results_dir
from PIL import Image

import gan3d
from gan3d.apps.canvas import on_canvas
from gan3d.apps.looks import Exhibit, Gallery, Look
from gan3d.camera import Camera

# name: (architecture, its packaged config, resolution of the rendering or None)
CASES = {
    "EG3D, 64 px": ("eg3d_heads64", None),
    "CIPS-3D, 64 px": ("cips3d_heads64", 64),
    "CIPS-3D, 256 px": ("cips3d_heads64", 256),
}
ASPECT = 1.5
