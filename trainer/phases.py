"""From a configuration to a phase that can step: networks, adapters, data, sharding, in the order they need."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from live_avatar.config import Preset
from live_avatar.model import checkpoint, components
from live_avatar.model.weight_files import WeightsError
from live_avatar.trainer.adapters import FAKE, STUDENT, Roles, adapter_parameters, load_adapter, share
from live_avatar.trainer.batches import batch_of, items_of, with_dropped_conditions
from live_avatar.trainer.data import DataError, Dataset, Datasets
from live_avatar.trainer.diffusion_forcing import causal_loss
from live_avatar.trainer.distributed import Processes, checkpoint_layers, precision, shard
from live_avatar.trainer.flow_matching import bidirectional_loss
from live_avatar.trainer.network import SpeechToVideo, initialise
from live_avatar.trainer.optimizer import EmaOptimizer
from live_avatar.trainer.presets import FlowMatchingConfig, SelfForcingConfig, TrainingConfig
from live_avatar.trainer.random_streams import generator
from live_avatar.trainer.self_forcing import SelfForcing


class FlowMatching:
    """The phases on real clips: each step is causal or bidirectional, whichever its draw says."""

    def __init__(
        self,
        network: SpeechToVideo,
        roles: Roles | None,
        data: Datasets,
        config: FlowMatchingConfig,
        group: Processes,
    ) -> None:
        self.network, self.roles, self.data, self.config = network, roles, data, config
        self.device = group.device
        self.is_sharded = group.count > 1
        self.items = items_of(config, group.rank, group.count)
        every = {name: p for name, p in network.named_parameters() if p.requires_grad}
        trained = every if roles is None else adapter_parameters(network, STUDENT)
        self.optimizers = (EmaOptimizer(STUDENT, trained, config, config.learning_rate),)

    def step(self, step: int) -> dict[str, Tensor]:
        """See ``training.Phase``."""
        config = self.config
        batch = batch_of(self.data.of(step), config, step, self.items, self.device)
        batch = with_dropped_conditions(batch, self.data.negative_text, config, step, self.items)
        is_causal = generator(config.seed, "order", step, 1).random() < config.causal_share
        compute, name = (causal_loss, "causal") if is_causal else (bidirectional_loss, "bidirectional")
        with self._computing():
            loss: Tensor = self.network(compute, batch, config, step, self.items)
        loss.backward()
        norm = self.optimizers[0].update(step)
        return {name: loss.detach(), "norm": torch.tensor(norm, device=self.device)}

    def _computing(self) -> AbstractContextManager[None]:
        """In the student's role where there are roles; in the run's precision where nobody else sees to it."""
        if self.roles:
            return self.roles.using(STUDENT)
        return nullcontext() if self.is_sharded else precision(self.config.precision, self.device)


def build(config: TrainingConfig, group: Processes) -> tuple[FlowMatching | SelfForcing, str]:
    """The phase of ``config``, and the digest of the weights it stands on (empty: none).

    Raises:
        ValueError: data, weights or adapter do not fit one another or the preset.
    """
    data = Datasets(config.data, config.seed)
    for dataset in data.sets:
        _check_data(dataset, config)
    torch.manual_seed(config.seed)
    network, digest = open_network(config, group.device)
    names = (STUDENT, FAKE) if isinstance(config, SelfForcingConfig) else (STUDENT,)
    roles = share(network.dit, config.system.lora, names) if config.train_adapter else None
    network.audio.requires_grad_(roles is None)
    if config.adapter is not None:
        tensors = read_adapter(config.system, config.adapter, digest)
        load_adapter(network.dit, config.system.lora, STUDENT, tensors, str(config.adapter))
    if config.gradient_checkpointing:
        checkpoint_layers(network, roles)
    shard(network, group, config.precision)
    if isinstance(config, SelfForcingConfig):
        assert roles is not None
        return SelfForcing(network, roles, data, config, group), digest
    assert isinstance(config, FlowMatchingConfig)
    return FlowMatching(network, roles, data, config, group), digest


def open_network(config: TrainingConfig, device: torch.device) -> tuple[SpeechToVideo, str]:
    """The network to train, and the digest of its weights; all float32 where every weight is trained.

    Raises:
        ValueError: an adapter to train and no weights to put it on.
        WeightsError: the weights are not there, not of the preset, or damaged.
    """
    preset = config.system
    if config.weights is None:
        if config.train_adapter:
            raise ValueError(f"an adapter of {preset.name} is trained on weights: give --weights DIR")
        network = SpeechToVideo(preset)
        initialise(network, config.seed)
        return network.to(device), ""
    with torch.device("meta"):
        network = SpeechToVideo(preset)
    dtype = components.DTYPES[config.precision] if config.train_adapter else torch.float32
    for name in ("dit", "audio"):
        setattr(network, name, components.load(preset, name, config.weights, dtype=dtype, device=device).train())
    network.requires_grad_(not config.train_adapter)
    manifest = components.open_converted(preset, "dit", config.weights).manifest
    assert manifest is not None
    return network, manifest.digest


def read_adapter(preset: Preset, folder: Path, base_digest: str) -> dict[str, Tensor]:
    """The tensors of the exported adapter in ``folder``, which must stand on the weights of ``base_digest``.

    Raises:
        WeightsError: not an adapter of ``preset``, damaged, or trained on other weights.
    """
    weights = components.open_converted(replace(preset), components.ADAPTER, folder.parent)
    assert weights.manifest is not None
    stands_on = weights.manifest.config.get(components.BASE_DIGEST)
    if stands_on != base_digest:
        raise WeightsError(f"{folder}: trained on a base of digest {stands_on}, but the base here is {base_digest}")
    weights.verify()
    return {key: tensor.clone() for key, tensor in checkpoint.map_tensors(weights, weights.entries)}


def _check_data(dataset: Dataset, config: TrainingConfig) -> None:
    preset, sample = config.system, dataset.sample(0)
    found = (sample.latents.shape[0], *sample.speech.shape[:2], sample.text.shape[1])
    wanted = (preset.dit.latent_channels, preset.dit.audio_states, preset.dit.audio_dim, preset.dit.text_dim)
    if found != wanted:
        names = "latent channels, speech states, speech width, text width"
        raise DataError(f"{dataset.folder}: holds {names} {found}, but preset {preset.name} takes {wanted}")
