"""The weights the service loads; a package, so that they are found after installation."""
