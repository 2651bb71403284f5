"""topfive's emulated cuda-python: host memory in place of a GPU's."""
