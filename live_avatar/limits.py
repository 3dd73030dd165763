"""The bounds that a user meets, as numbers: what enforces them and what explains them read the same.

Imports nothing, so that a help text costs nothing.
"""

MAX_MESSAGE_BYTES = 4 * 2**20
"""Of a message to a gateway or a service."""
MAX_IMAGE_BYTES = MAX_MESSAGE_BYTES - 64 * 2**10
"""Of a portrait's file: what a message holds beside the longest prompt and everything else."""
MAX_IMAGE_PIXELS = 25_000_000
"""Of a portrait; one number for whoever publishes it, checks it or decodes."""
IMAGE_FORMATS = "JPEG, PNG, WebP, HEIC or AVIF"
"""Of portraits."""
MAX_PROMPT_CHARACTERS = 2_000
MAX_WHOLE_FILE_S = 120
"""Longest recording that is encoded as a whole; attention over it grows with its square."""
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 48_000
"""Sample rates that a gateway takes; a file of another rate is resampled by the client."""
MAX_UPSCALE_FACTOR = 8
MAX_BITRATE_KBPS = 50_000
"""Of H.264."""
MAX_SEED = 2**64 - 1
MAX_STAGES = 16
"""Denoising stages that one machine is asked to run, each a process with networks of its own."""
MAX_RESTARTS = 5
"""Times a service is started again within ``RESTART_WINDOW_S`` before everything ends."""
RESTART_WINDOW_S = 300
