"""Settings of the VAE decoder."""

from pydantic import Field

from live_avatar.serving.pipeline_settings import PipelineSettings


class VaeDecoderSettings(PipelineSettings):
    """Turns clean latents into encoded video, and portraits into sinks."""

    name: str = Field(default="vae-decoder", description="name in logs, metrics and timings")
