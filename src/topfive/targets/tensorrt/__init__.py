"""NVIDIA's GPUs through TensorRT: its Python API with cuda-python, or trtexec."""
