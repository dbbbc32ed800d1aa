"""Load tests of OpenAI-compatible endpoints."""
