"""The end of the pipeline, where pictures are.

In: clean latents, portraits.  Out: encoded video, and sinks: version 0 from a portrait, version 1 from the model.
"""
