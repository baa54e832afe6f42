"""What several models share: mixtures, chains, factors, networks."""
