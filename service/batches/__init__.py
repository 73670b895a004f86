"""Many pictures in one request."""
