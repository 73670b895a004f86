"""The denoiser as a library: networks, their gradients and their training, by hand on plain tensors."""
