"""``live-avatar up``: the whole pipeline and its gateway as processes on this machine."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from live_avatar.cli import inputs, options
from live_avatar.files import check_output_folder
from live_avatar.limits import MAX_RESTARTS, RESTART_WINDOW_S

if TYPE_CHECKING:
    from live_avatar.launcher.child import Child
    from live_avatar.launcher.pipeline import LocalPipeline
    from live_avatar.launcher.restarts import Restarts

POLL_S = 0.2
_STORES = ("memory://", "redis://", "rediss://", "unix://")


def up(
    layout: options.LayoutOption = "4x1",
    preset: options.PresetOption = inputs.DEFAULT_PRESET,
    weights: options.WeightsOption = None,
    redis: Annotated[
        str, typer.Option(help="Where sessions are kept: redis://host:port/0, or memory:// for this gateway alone.")
    ] = "memory://",
    port: Annotated[int, typer.Option(help="Port of the gateway, 1..65535; 0: any free one.", min=0, max=65_535)] = 0,
    reflection: Annotated[
        bool,
        typer.Option("--reflection", help="The gateway answers gRPC reflection: tools such as grpcurl list its calls."),
    ] = False,
    tls: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Encrypt everything: the folder with ca.crt, tls.crt and tls.key, as live-avatar certificates "
            "makes it. Default: plain text, on this machine alone.",
        ),
    ] = None,
    logs: options.LogsOption = Path("out/logs"),
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Stages and decoder run generated code; its making takes minutes.")
    ] = False,
    fp8_report: Annotated[
        Path | None,
        typer.Option(
            help="Linear layers in 8-bit floats: the file that "
            "python -m live_avatar.services.denoise_stage.quantization_check wrote of these weights. "
            "Default: none, in the precision of the preset."
        ),
    ] = None,
    fp8_kv: Annotated[
        bool, typer.Option("--fp8-kv", help="Keys and values in 8-bit floats: half the memory of a session.")
    ] = False,
) -> None:
    """Starts a pipeline with its gateway here; Ctrl-C ends it.

    A service that ends by itself is started again.
    """
    plan = inputs.plan_of(layout, preset, weights)
    _check(redis, logs, fp8_report)
    from live_avatar.launcher.pipeline import LocalPipeline, Speed
    from live_avatar.launcher.tls_folder import TlsFolder

    certificates = None if tls is None else TlsFolder.open(tls)
    speed = Speed(compiled=compiled, fp8_report=fp8_report, fp8_kv=fp8_kv)
    plan = replace(plan, redis=redis, gateway_port=port, reflection=reflection, logs=logs, speed=speed)
    plan = replace(plan, tls=certificates)
    try:
        with LocalPipeline(plan, inputs.report) as pipeline:
            if plan.weights is None:
                inputs.report(inputs.RANDOM_WEIGHTS)
            if certificates is not None:
                inputs.report(f"clients connect with --ca {certificates.authority}")
            typer.echo(f"gateway {'' if certificates is None else 'grpcs://'}{pipeline.gateway}")
            _keep_up(pipeline)
    except KeyboardInterrupt:
        inputs.report("all services have ended")


def _check(redis: str, logs: Path, fp8_report: Path | None) -> None:
    """Raises ValueError where what is given besides the pipeline is wrong."""
    if not redis.startswith(_STORES):
        raise ValueError(f"--redis {redis!r} is no address; it begins with {', '.join(_STORES)}")
    check_output_folder(logs)
    if fp8_report is not None and not fp8_report.is_file():
        raise ValueError(
            f"--fp8-report {fp8_report} is no file; "
            "python -m live_avatar.services.denoise_stage.quantization_check writes it"
        )


def _keep_up(pipeline: "LocalPipeline") -> NoReturn:
    """Starts services again that end by themselves; raises LaunchError where one keeps ending."""
    from live_avatar.launcher.restarts import Restarts

    restarts = Restarts()
    while True:
        for child in pipeline.ended():
            _start_again(pipeline, child, restarts)
        time.sleep(POLL_S)


def _start_again(pipeline: "LocalPipeline", child: "Child", restarts: "Restarts") -> None:
    from live_avatar.launcher.child import LaunchError

    name, minutes = child.program.name, RESTART_WINDOW_S // 60
    obituary = child.obituary(child.process.returncode)
    pause_s = restarts.next_pause_s(name, time.monotonic())
    if pause_s is None:
        raise LaunchError(f"{obituary}; it was started again {MAX_RESTARTS} times within {minutes} minutes already")
    count = f"{restarts.count(name, time.monotonic())} of {MAX_RESTARTS} times within {minutes} minutes"
    inputs.report(f"{obituary}; it is started again ({count})" + (f" in {pause_s:.1f} s" if pause_s else ""))
    time.sleep(pause_s)
    try:
        pipeline.restart(name)
    except LaunchError as error:
        inputs.report(str(error))
