"""EM read off a Pyro program: exact E step by enumeration, M step site by site."""
