"""Speech and prompts to what the model hears and reads.

In: PCM and the index of a block, prompts.  Out: the block with its audio tokens, text states.
"""
