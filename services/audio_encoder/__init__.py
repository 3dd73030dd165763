"""Encodes speech and prompts into the tokens that the model receives.

In: PCM and the index of a block, prompts.  Out: the block with its audio tokens, text states.
"""
