"""What every part of the zoo speaks: data, the contract of a model, programs, statistics."""
