"""Posteriors over parameters: priors, the joint, draws."""
