"""The loop of all gradient estimators."""
