"""Time one callable, on the CPU or a GPU, until the answer is sharp enough."""
