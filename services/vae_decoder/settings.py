"""Settings of the VAE decoder."""

from pydantic import Field

from live_avatar.serving.compile_settings import CompileSettings


class VaeDecoderSettings(CompileSettings):
    """Turns clean latents into encoded video, and portraits into sinks."""

    name: str = Field(default="vae-decoder", description="name in logs, metrics and timings")
