"""Inference servers: started, watched and removed for a trial."""
