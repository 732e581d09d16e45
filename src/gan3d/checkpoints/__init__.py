"""Networks on disk: of a run (`training`), in one file (`portable`), of official code (`eg3d`,
`stylegan2`).
"""
