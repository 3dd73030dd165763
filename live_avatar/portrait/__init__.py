"""Uploaded bytes to a picture, safely, and the size of the video made of it.

What a file claims is read first, without a decoder (``header``); then Pillow decodes it (``reading``), its colours
become sRGB (``colour``), and it is brought to the size of the video (``sizing``, ``fitting``), cut about the face where
one is found (``face``).  ``jobs`` are the same for a process of its own.  Knows nothing of tensors, of the model's
numbers, or of how the bytes arrived.
"""
