"""One slice of the denoising steps.

In: a block.  Out: the same block, one slice cleaner.  All stages run this code; they differ in the steps they own.
"""
