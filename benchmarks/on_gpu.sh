#!/usr/bin/env bash
# All that a GPU shows of gan3d, in one command of six minutes; see benchmarks/README.md.
#
#   [OUT=folder] [PYTHON=python3] benchmarks/on_gpu.sh [--minutes 6] [--device cuda] [--tiny]
#
# Needs torch, lightning, numpy, scipy, pillow, einops, safetensors and tqdm, and Triton for kernels.
set -eu
root="$(cd "$(dirname "$0")/.." && pwd)"
export PYTHONPATH="$root/src:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export OUT="${OUT:-$PWD/on_gpu}"
exec "${PYTHON:-python3}" "$root/benchmarks/on_gpu.py" "$@"
