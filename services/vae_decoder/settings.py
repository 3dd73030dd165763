"""Settings of the VAE decoder."""

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from live_avatar.serving.compile_settings import CompileSettings
from live_avatar.serving.settings import Group
from live_avatar.watermark.carrier import MIN_KEY_BYTES
from live_avatar.watermark.payload import DEPLOYMENT_BITS


class WatermarkSettings(Group):
    """The invisible mark of all frames."""

    key: SecretStr | None = Field(
        default=None,
        description=f"secret of the mark, at least {MIN_KEY_BYTES} bytes, the same wherever marks are to be found; "
        "unset: frames are not marked",
    )
    deployment: int = Field(
        default=0, ge=0, lt=1 << DEPLOYMENT_BITS, description="number of this deployment, which the mark carries"
    )

    @field_validator("key")
    @classmethod
    def _must_be_long(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value().encode()) < MIN_KEY_BYTES:
            raise ValueError(f"the key must have at least {MIN_KEY_BYTES} bytes")
        return key


class LabelSettings(Group):
    """A label in the frames that people see."""

    text: str = Field(default="", max_length=40, description='words of the label, such as "AI generated"; empty: none')
    corner: Literal["top-right", "top-left", "bottom-right", "bottom-left"] = Field(
        default="top-right", description="where the label is"
    )
    seconds: float = Field(
        default=5.0, gt=0, le=86_400, description="for how long it is shown at the beginning and after each break"
    )
    break_seconds: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="pause without speech after which it is shown again; also after a change of pipelines",
    )


class VaeDecoderSettings(CompileSettings):
    """Turns clean latents into encoded video, and portraits into sinks."""

    name: str = Field(default="vae-decoder", description="name in logs, metrics and timings")
    watermark: WatermarkSettings = WatermarkSettings()
    label: LabelSettings = LabelSettings()
