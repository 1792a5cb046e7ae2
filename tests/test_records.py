"""Reading records: order, position, index, damage, foreign shards."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf

from electra_tf import UserError, records
from electra_tf.configs import load_pretraining_config
from electra_tf.record_file import RecordFile, crc32c
from electra_tf.tokenization import Tokenizer

LENGTH = 4


def record(number, length=LENGTH):
    def feature(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {
        "input_ids": feature([number] * length),
        "input_mask": feature([1] * length),
        "segment_ids": feature([0] * length),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_shards(folder, counts, options=None, suffix=""):
    number, paths = 0, []
    for i, count in enumerate(counts):
        paths.append(str(folder / f"x.tfrecord-{i:05d}-of-{len(counts):05d}{suffix}"))
        with tf.io.TFRecordWriter(paths[-1], options) as writer:
            for _ in range(count):
                writer.write(record(number))
                number += 1
    return paths


def numbers_of(dataset):
    return [batch["input_ids"].numpy()[:, 0].tolist() for batch in dataset]


def open_batches(paths, batch_size=4, **options):
    return records.RecordBatches(records.read_shards(paths, **options), batch_size, LENGTH)


@pytest.fixture(params=["plain", "gzip"])
def shards(request, tmp_path):
    """23 examples in shards of different sizes, one of them empty."""
    if request.param == "gzip":
        return write_shards(tmp_path, [9, 0, 13, 1], tf.io.TFRecordOptions("GZIP"), ".gz")
    return write_shards(tmp_path, [9, 0, 13, 1])


def test_a_token_beyond_the_vocabulary(shards):
    """Of foreign records the first one is looked at before; the others when tokens are counted."""
    batches = open_batches(shards)
    ids = np.concatenate([b["input_ids"].numpy().ravel() for b in batches.evaluation()])
    largest = ids.max()
    np.testing.assert_array_equal(batches.token_counts(largest + 1), np.bincount(ids))
    with pytest.raises(UserError, match=f"holds token {largest}, .* ends at {largest - 1}; give"):
        batches.token_counts(largest)


def test_an_epoch_has_each_example_once(tmp_path):
    batches = open_batches(write_shards(tmp_path, [9, 0, 13, 1]))
    assert batches.num_examples == 23
    flat = sum(numbers_of(batches.training(seed=5, first_step=0, last_step=23)), [])
    epochs = [flat[i : i + 23] for i in range(0, 92, 23)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = sum(numbers_of(batches.training(seed=6, first_step=0, last_step=6)), [])
    assert other[:23] != flat[:23]


def test_a_stream_has_each_example_once_an_epoch(tmp_path):
    batches = open_batches(write_shards(tmp_path, [9, 0, 13, 2], tf.io.TFRecordOptions("GZIP")))
    flat = sum(numbers_of(batches.training(seed=5, first_step=0, last_step=12)), [])
    assert sorted(flat[:24]) == sorted(flat[24:]) == list(range(24))
    assert flat[:24] != flat[24:]


def test_the_step_tells_the_position(shards):
    batches = open_batches(shards)
    whole = numbers_of(batches.training(seed=5, first_step=0, last_step=14))
    assert len(whole) == 14
    assert numbers_of(batches.training(seed=5, first_step=9, last_step=14)) == whole[9:]


def test_the_order_is_known():
    # Philox bits sorted: pinned, since another order would break the resuming of old runs.
    assert records.epoch_order(8, 42, 0).tolist() == [7, 1, 6, 4, 3, 5, 0, 2]


def test_a_batch_larger_than_the_data(tmp_path):
    batches = open_batches(write_shards(tmp_path, [3]), batch_size=8)
    (first, *_) = numbers_of(batches.training(seed=5, first_step=0, last_step=2))
    assert sorted(first[:3]) == sorted(first[3:6]) == [0, 1, 2]


@pytest.mark.parametrize("counts", [[24], [9, 0, 13, 2]])
@pytest.mark.parametrize("num_parts, num_workers", [(2, 2), (4, 2)])
@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_workers_share_an_epoch(tmp_path, counts, num_parts, num_workers, compression):
    """Each example is read once an epoch, by one worker; all of them together read the same steps."""
    paths = write_shards(tmp_path, counts, tf.io.TFRecordOptions(compression))

    def read(num_parts, parts, of):
        batches = open_batches(paths)
        if of == "training":
            dataset = batches.training(5, 0, 6, num_parts=num_parts, parts=parts)
        else:
            dataset = batches.evaluation(num_parts=num_parts, parts=parts)
        return numbers_of(dataset)

    size = num_parts // num_workers
    shares = [range(first, first + size) for first in range(0, num_parts, size)]
    for of in ("training", "evaluation"):
        workers = [sum(read(num_parts, parts, of), []) for parts in shares]
        assert sorted(sum(workers, [])) == list(range(24))
    # Row by row the batches are those that one worker reads.
    parts = [read(num_parts, parts, "training") for parts in shares]
    steps = [
        sum((batch for part in parts for batch in part[i * size : (i + 1) * size]), [])
        for i in range(6)
    ]
    assert steps == read(1, range(1), "training")


def test_evaluation_takes_each_example_once_in_order(shards):
    batches = open_batches(shards)
    assert sum(numbers_of(batches.evaluation()), []) == list(range(23))
    assert [len(n) for n in numbers_of(batches.evaluation())] == [4] * 5 + [3]
    assert sum(numbers_of(batches.evaluation(num_steps=2)), []) == list(range(8))


def test_the_index_saves_reading(tmp_path, monkeypatch):
    paths = write_shards(tmp_path, [9, 5])
    scanned = records.write_index(paths)
    for path in paths:
        os.utime(path, ns=(1, 1))
    monkeypatch.setattr(records, "_scan", lambda *_: pytest.fail("read although an index is there"))
    for a, b in zip(scanned, records.read_shards(paths)):
        np.testing.assert_array_equal(a.offsets, b.offsets)


def test_an_old_index_is_not_believed(tmp_path):
    paths = write_shards(tmp_path, [9])
    records.write_index(paths)
    os.utime(tmp_path / records.INDEX_FILE, ns=(1, 1))
    write_shards(tmp_path, [4])
    assert len(records.read_shards(paths)[0].offsets) == 4


def damage(path, position, value=0xFF):
    with open(path, "r+b") as f:
        f.seek(position)
        byte = f.read(1)[0]
        f.seek(position)
        f.write(bytes([byte ^ value]))


def test_a_corrupt_record(tmp_path):
    paths = write_shards(tmp_path, [9, 5])
    records.write_index(paths)
    size = len(record(0)) + 16
    damage(paths[0], 2 * size + 20)  # Inside the third record.
    with pytest.raises(
        UserError, match=f"{paths[0]}: truncated or corrupt at byte {2 * size};.*--skip_corrupt"
    ):
        records.read_shards(paths)
    batches = open_batches(paths, skip_corrupt=True)
    assert sum(numbers_of(batches.evaluation()), []) == [0, 1, *range(3, 14)]


def test_records_are_checked_in_each_folder(tmp_path):
    tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"])
    config = dataclasses.replace(load_pretraining_config("tiny"), max_seq_length=LENGTH)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    paths = [write_shards(folder, [9])[0] for folder in folders]

    def check(**options):
        shards = records.read_shards(paths, **options)
        records.check_records(shards, "--train_data", config, tokenizer)

    check()
    (folders[1] / "dataset.json").write_text('{"vocab_sha256": "another"}')
    with pytest.raises(UserError, match=f"{paths[1]}: the records have vocab_sha256 another"):
        check()
    (folders[1] / "dataset.json").unlink()
    damage(paths[1], 20)  # Inside the first record.
    check(skip_corrupt=True)
    with tf.io.TFRecordWriter(paths[1]) as writer:
        writer.write(b"no message")
    with pytest.raises(UserError, match=f"{paths[1]}: its first record is no tf.Example"):
        check()


def test_a_corrupt_header_loses_the_rest_of_the_shard(tmp_path):
    paths = write_shards(tmp_path, [9, 5])
    damage(paths[0], 4 * (len(record(0)) + 16))
    batches = open_batches(paths, skip_corrupt=True)
    assert sum(numbers_of(batches.evaluation()), []) == [0, 1, 2, 3, *range(9, 14)]


@pytest.mark.parametrize("options", [None, "GZIP"])
def test_a_truncated_shard(tmp_path, options):
    paths = write_shards(tmp_path, [400, 5], options and tf.io.TFRecordOptions(options))
    whole = open(paths[0], "rb").read()
    open(paths[0], "wb").write(whole[: len(whole) - 25])
    with pytest.raises(UserError, match=f"{paths[0]}: truncated or corrupt.*--skip_corrupt"):
        records.read_shards(paths)
    batches = open_batches(paths, skip_corrupt=True)
    numbers = sum(numbers_of(batches.evaluation()), [])
    first_shard = [n for n in numbers if n < 400]
    assert first_shard == list(range(len(first_shard))) and len(first_shard) < 400
    assert numbers[len(first_shard) :] == list(range(400, 405))


def test_damage_during_training_is_named(tmp_path):
    paths = write_shards(tmp_path, [30])
    batches = open_batches(paths)
    damage(paths[0], 20)
    with pytest.raises(tf.errors.OpError):
        numbers_of(batches.training(seed=1, first_step=0, last_step=8))
    assert str(batches.error).startswith(f"{paths[0]}: truncated or corrupt at byte 0")


def test_a_record_file(tmp_path):
    """Against TensorFlow's writer, for records of all lengths; without reading much more."""
    contents = [bytes(range(n)) for n in range(12)] + [bytes([n]) * 9_000 for n in (0, 255)]
    path, offsets = str(tmp_path / "x.tfrecord"), np.cumsum([0] + [len(c) + 16 for c in contents])
    with tf.io.TFRecordWriter(path) as writer:
        for content in contents:
            writer.write(content)
    file = RecordFile(path)
    for number in (13, 3, *range(14), 0):
        assert file.read(int(offsets[number])) == contents[number]
    for offset in (1, int(offsets[-1]), int(offsets[-1]) + 5):
        with pytest.raises((ValueError, tf.errors.OutOfRangeError)):
            file.read(offset)
    damage(path, int(offsets[13]) + 4_000)
    with pytest.raises(ValueError, match="wrong content"):
        RecordFile(path).read(int(offsets[13]))


def test_crc32c():
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720 B.4 has the others.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_find_shards(tmp_path):
    paths = write_shards(tmp_path, [1, 1])
    records.write_index(paths)
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "eval").mkdir()
    for pattern in (tmp_path, tmp_path / "*", tmp_path / "x.tfrecord-*"):
        assert records.find_shards(str(pattern)) == paths
    with pytest.raises(UserError, match="no TFRecords there"):
        records.find_shards(str(tmp_path / "eval"))
    with pytest.raises(UserError, match="no record in 1 shard"):
        records.read_shards(write_shards(tmp_path / "eval", [0]))
