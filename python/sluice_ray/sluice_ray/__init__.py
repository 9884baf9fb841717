"""Runs sluice programs on a Ray cluster. The command is `sluice-ray`; see docs/ray.md."""
