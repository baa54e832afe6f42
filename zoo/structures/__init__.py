"""Latent structures: the exact computations models are built from."""
