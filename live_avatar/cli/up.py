"""``live-avatar up``: the whole pipeline and its gateway as processes on this machine."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from live_avatar.cli import sources
from live_avatar.config import PRESETS
from live_avatar.launcher.layout import parse_layout

if TYPE_CHECKING:
    from live_avatar.launcher.pipeline import LocalPipeline

MAX_RESTARTS = 5
POLL_S = 0.2

LayoutOption = Annotated[
    str, typer.Option(help="STAGESxSTEPS, such as 4x1, 2x2 or 1x4, or the steps of each stage, such as 0-1/2/3.")
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of live-avatar weights convert, or: random. Without it small presets have the package's."
    ),
]
PresetOption = Annotated[str, typer.Option(help=f"The system to run: {', '.join(PRESETS)}, or a .json file.")]
LogsOption = Annotated[Path, typer.Option(help="Folder for what the services log.")]


def up(
    layout: LayoutOption = "4x1",
    preset: PresetOption = sources.DEFAULT_PRESET,
    weights: WeightsOption = None,
    redis: Annotated[str, typer.Option(help="State store, as redis://host:port/0.")] = "memory://",
    port: Annotated[int, typer.Option(help="Port of the gateway; 0: any free one.", min=0, max=65_535)] = 0,
    logs: LogsOption = Path("out/logs"),
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Stages and decoder run generated code; its making takes minutes.")
    ] = False,
    fp8_report: Annotated[
        Path | None,
        typer.Option(help="Linear layers in 8-bit floats: what services.denoise_stage.gate wrote of these weights."),
    ] = None,
    fp8_kv: Annotated[bool, typer.Option("--fp8-kv", help="Keys and values in 8-bit floats.")] = False,
) -> None:
    """Starts a pipeline with its gateway here; Ctrl-C ends it."""
    from live_avatar.launcher.pipeline import LocalPipeline, Plan, Speed

    loaded = sources.weights_of(preset, weights)
    speed = Speed(compiled=compiled, fp8_report=fp8_report, fp8_kv=fp8_kv)
    plan = Plan(
        layout=parse_layout(layout),
        preset=preset,
        weights=loaded,
        redis=redis,
        gateway_port=port,
        logs=logs,
        speed=speed,
    )
    try:
        with LocalPipeline(plan, sources.report) as pipeline:
            if loaded is None:
                sources.report(sources.RANDOM_WEIGHTS)
            typer.echo(f"gateway {pipeline.gateway}")
            _keep_up(pipeline)
    except KeyboardInterrupt:
        sources.report("all services have ended")


def _keep_up(pipeline: "LocalPipeline") -> NoReturn:
    """Starts services again that end by themselves; raises LaunchError where they keep ending."""
    from live_avatar.launcher.child import LaunchError

    restarts = 0
    while True:
        for child in pipeline.ended():
            obituary = child.obituary(child.process.returncode)
            if restarts == MAX_RESTARTS:
                raise LaunchError(f"{obituary}; services were started again {restarts} times already")
            restarts += 1
            sources.report(f"{obituary}; it is started again")
            pipeline.restart(child.program.name)
        time.sleep(POLL_S)
