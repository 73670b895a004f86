"""A program in C that runs the kernels under sanitizers."""
