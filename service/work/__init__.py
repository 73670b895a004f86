"""Whose turn it is, and the threads that compute."""
