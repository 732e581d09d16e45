"""Triton kernels of the ops, imported with the first call that takes one (`gan3d.ops.backend`).

Each file has the kernels of one op, forward and backward, and the functions that launch them, which
are registered with torch (`torch.library.custom_op`): they have a fake for tracing, a derivative,
and pass `opcheck` and `torch.compile(fullgraph=True)`. Equations stand in the op's own file. A
derivative that is itself differentiated is computed by torch, in the fast form.

Sums run in float32 for any input (in float64 for float64, which only the interpreter takes).
"""
