"""Numbers about a model on data, without fitting anything."""
