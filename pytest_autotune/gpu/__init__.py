"""NVIDIA devices: which there are, and how they are doing."""
