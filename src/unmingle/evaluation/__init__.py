"""Evaluation: score a system on a folder of mixtures with known sources."""
