"""Bytes to pixels and back: float32 on [0, 1] inside, a file's own depth outside. Codecs are known here alone.

A whole image is kept in the depth of its file, as `samples`; `pixels` are what networks work with. Pillow reads
and writes what has 8 bits; what has more goes through imagecodecs and tifffile, because Pillow drops the lower
bits of 16-bit colour without a word. A codec that few images need is imported when one comes.
"""
