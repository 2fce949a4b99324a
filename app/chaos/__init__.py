"""Faults on purpose: what stands between a worker and its servers while tests try to break it."""
