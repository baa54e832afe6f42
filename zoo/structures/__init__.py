"""Latent structures: exact sums over the values of a discrete object, from log-potentials; one structure a file."""

from zoo.structures.alignment import Alignment
from zoo.structures.base import Structure
from zoo.structures.chain import Chain
from zoo.structures.structured import Structured
from zoo.structures.tree import Tree

__all__ = ["Alignment", "Chain", "Structure", "Structured", "Tree"]
