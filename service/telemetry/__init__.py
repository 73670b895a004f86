"""What is told of the service to those who run it: its log, its metrics."""
