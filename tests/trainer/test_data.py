"""The stream of samples: order, going on, cropping, and damage that is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from live_avatar.trainer.batches import batch_of, items_of, with_dropped_conditions
from live_avatar.trainer.data import DataError, Dataset, Datasets, crop, shuffled
from live_avatar.trainer.random_streams import generator
from tests.trainer.micro import flow_config, write_data


def test_an_epoch_has_every_sample_once_and_the_next_in_another_order() -> None:
    sizes = [3, 1, 4, 2, 5]
    every = {(shard, position) for shard, size in enumerate(sizes) for position in range(size)}
    first, second = shuffled(sizes, 7, 0, group=2), shuffled(sizes, 7, 1, group=2)
    assert set(first) == set(second) == every
    assert len(first) == len(every)
    assert first != second
    assert first == shuffled(sizes, 7, 0, group=2)


def test_reading_stays_within_a_group_of_shards() -> None:
    order = shuffled([10] * 6, 1, 0, group=2)
    for first in range(0, 60, 20):
        assert len({shard for shard, _ in order[first : first + 20]}) == 2


def test_a_place_in_the_stream_is_a_sample_whatever_was_read_before(tmp_path: Path) -> None:
    folder = write_data(tmp_path)
    reader = Dataset(folder, 3)
    forward = [reader.sample(place).latents for place in range(30)]
    for place in (29, 0, 17):
        assert torch.equal(Dataset(folder, 3).sample(place).latents, forward[place])
    assert not torch.equal(forward[0], Dataset(folder, 4).sample(0).latents)


@pytest.mark.parametrize("keep", [10, 300, -4])
def test_a_shard_cut_short_is_named(tmp_path: Path, keep: int) -> None:
    folder = write_data(tmp_path)
    path = folder / "clips-000001.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"clips-000001\.safetensors.*prepare it again"):
        Dataset(folder, 0)


def test_a_shard_that_lacks_a_part_is_named(tmp_path: Path) -> None:
    folder = write_data(tmp_path)
    path = folder / "clips-000002.safetensors"
    tensors = load_file(path)
    del tensors["0001.speech"]
    save_file(tensors, path, metadata={"source": "micro"})
    with pytest.raises(DataError, match=r"clips-000002.*0001\.speech is missing"):
        Dataset(folder, 0)


def test_samples_of_other_networks_are_refused(tmp_path: Path) -> None:
    write_data(tmp_path, shards=2, source="some")
    path = tmp_path / "clips-000001.safetensors"
    save_file(load_file(path), path, metadata={"source": "others"})
    with pytest.raises(DataError, match="other networks"):
        Dataset(tmp_path, 0)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        Dataset(tmp_path, 0)


def test_every_step_takes_its_clips_from_one_of_several_sets(tmp_path: Path) -> None:
    for name, blocks in (("small", 2), ("large", 3)):
        write_data(tmp_path / name, blocks=blocks)
    data = Datasets(tmp_path, 4)
    chosen = [data.of(step).folder.name for step in range(60)]
    assert 15 < chosen.count("small") < 45
    assert chosen == [Datasets(tmp_path, 4).of(step).folder.name for step in range(60)]
    assert [each.folder for each in Datasets(tmp_path / "small", 4).sets] == [tmp_path / "small"]


def test_sets_of_different_networks_are_refused(tmp_path: Path) -> None:
    write_data(tmp_path / "some")
    write_data(tmp_path / "others", source="others")
    with pytest.raises(DataError, match=r"some: made by other networks than .*others"):
        Datasets(tmp_path, 0)


def test_a_crop_keeps_sound_and_pictures_together(tmp_path: Path) -> None:
    sample = Dataset(write_data(tmp_path, blocks=5), 0).sample(0)
    starts = set()
    for item in range(40):
        part = crop(sample, 2, 3, generator(0, "crop", 0, item))
        assert part.latents.shape[1] == 6
        assert part.speech.shape[2] == 24
        first = next(f for f in range(10) if torch.equal(sample.latents[:, f], part.latents[:, 0]))
        assert torch.equal(part.speech, sample.speech[..., 4 * first : 4 * first + 24])
        starts.add(first)
    assert starts == {0, 3, 6, 9}
    with pytest.raises(DataError, match="5 blocks is too short for 6"):
        crop(sample, 6, 3, generator(0, "crop", 0))


def test_a_step_has_the_same_clips_however_it_is_split(tmp_path: Path) -> None:
    config = flow_config(tmp_path)
    dataset = Dataset(config.data, config.seed)

    def clips(ranks: int) -> torch.Tensor:
        parts = []
        for rank in range(ranks):
            items = items_of(config, rank, ranks)
            batch = batch_of(dataset, config, 5, items, torch.device("cpu"))
            parts.append(with_dropped_conditions(batch, dataset.negative_text, config, 5, items).speech)
        return torch.cat(parts)

    assert torch.equal(clips(1), clips(2))
    assert torch.equal(clips(1), clips(4))
    with pytest.raises(ValueError, match="batch=4 does not split over 3"):
        items_of(config, 0, 3)


def test_conditions_are_dropped_as_often_as_the_configuration_says(tmp_path: Path) -> None:
    config = flow_config(tmp_path, batch=400, drop_audio=0.25, drop_text=0.1, own_reference=0.5)
    dataset = Dataset(config.data, config.seed)
    batch = batch_of(dataset, config, 0, range(400), torch.device("cpu"))
    dropped = with_dropped_conditions(batch, dataset.negative_text, config, 0, range(400))
    silent = (dropped.speech == 0).flatten(1).all(dim=1)
    own = (dropped.reference == batch.latents[:, :, :1]).flatten(1).all(dim=1)
    no_text = (dropped.text == 0).flatten(1).all(dim=1)
    assert 0.18 < silent.float().mean() < 0.32
    assert 0.42 < own.float().mean() < 0.58
    assert 0.05 < no_text.float().mean() < 0.16
    assert torch.equal(dropped.latents, batch.latents)


def test_what_is_important_weighs_more_and_the_mean_stays(tmp_path: Path) -> None:
    config = flow_config(tmp_path, emphasis=3.0)
    batch = batch_of(Dataset(config.data, config.seed), config, 0, range(4), torch.device("cpu"))
    torch.testing.assert_close(batch.weight.mean(dim=(1, 2)), torch.ones(4))
    torch.testing.assert_close(batch.weight.amax(dim=(1, 2)), 3 * batch.weight.amin(dim=(1, 2)))
