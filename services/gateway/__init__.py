"""Gateway: audio of clients arrives by the public API, video of their avatars leaves on the same stream.

Sessions, their leases and the slots of the pipelines live in Redis; this process computes no model.
"""
