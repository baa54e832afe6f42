"""The verbs: fit, compare, evaluate, align, explain."""
