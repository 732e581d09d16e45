"""Apps: what is done with a trained generator. Written once against the contract; none of them
needs Lightning.
"""
