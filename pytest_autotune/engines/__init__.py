"""Inference engines as data, and how parameters become their flags."""
