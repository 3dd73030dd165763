"""Settings of the audio encoder."""

from pydantic import Field

from live_avatar.limits import MAX_WHOLE_FILE_S
from live_avatar.serving.pipeline_settings import PipelineSettings
from live_avatar.serving.settings import ClientTlsSettings


class AudioEncoderSettings(PipelineSettings):
    """Encodes speech and prompts for the denoising stages."""

    name: str = Field(default="audio-encoder", description="name in logs, metrics and timings")
    next: str = Field(description="address of the first denoising stage, as host:port")
    tls: ClientTlsSettings = ClientTlsSettings()
    allow_shared_devices: bool = Field(
        default=False, description="accept sessions although several services of the pipeline use the same accelerator"
    )
    max_whole_file_seconds: float = Field(
        default=float(MAX_WHOLE_FILE_S),
        gt=0,
        le=3600,
        description="longest recording that is encoded as a whole; time grows with its square",
    )
