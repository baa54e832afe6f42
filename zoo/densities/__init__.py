"""Arithmetic of one density a file: Gaussians, discrete families that know the impossible."""
