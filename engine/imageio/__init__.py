"""Image files: reading and writing.

- An `Image` keeps the depth of its file, as `samples`. Networks work with `pixels`: float32 on [0, 1].
- Pillow reads and writes 8 bits a channel. imagecodecs and tifffile read and write more, because Pillow silently
  drops the lower bits of 16-bit colour.
- Every codec but Pillow is imported when a file needs it. No other package imports codecs.
"""
