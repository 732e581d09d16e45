"""What comes with gan3d: configs by name (`configs`), and weights, `<name>.safetensors` in this
folder.
"""
