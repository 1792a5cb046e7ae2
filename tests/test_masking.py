"""Hiding and sampling, against counts and arithmetic by hand."""

import numpy as np
import pytest
import tensorflow as tf

from electra_tf import masking

SPECIAL = (0, 2, 3, 4)


def test_candidates_are_real_tokens_but_special_ones():
    ids = tf.constant([[2, 7, 1, 4, 8, 3, 0, 9]])
    mask = tf.constant([[1, 1, 1, 1, 1, 1, 0, 0]])
    expected = [[False, True, True, False, True, False, False, False]]
    assert masking.candidates(ids, mask, SPECIAL).numpy().tolist() == expected


@pytest.mark.parametrize(
    "num_tokens, expected",
    [(2, 1), (10, 2), (30, 4), (70, 10), (110, 16), (128, 19), (3, 1), (17, 3)],
)
def test_num_to_predict(num_tokens, expected):
    # round(10 * 0.15) = round(1.5) = 2 and round(30 * .15) = round(4.5) = 4: half to even, as TF.
    mask = tf.sequence_mask([num_tokens], 128, tf.int32)
    assert masking.num_to_predict(mask, 0.15, 19).numpy().tolist() == [expected]


def test_positions_are_chosen_without_replacement_and_uniformly():
    is_candidate = tf.constant([[False, True, True, True, True, True, False, True]] * 20_000)
    noise = tf.random.stateless_uniform(is_candidate.shape, [1, 2])
    num = tf.fill([20_000], 3)
    positions, weights = (x.numpy() for x in masking.choose_positions(is_candidate, num, noise, 4))
    assert (weights == [1, 1, 1, 0]).all() and (positions[:, 3] == 0).all()
    chosen = np.sort(positions[:, :3])
    assert (np.diff(chosen) > 0).all()
    counts = np.bincount(chosen.ravel(), minlength=8)
    assert counts[0] == counts[6] == 0
    # Each of 6 candidates is chosen in half of the draws; 5 standard deviations of a binomial.
    assert np.abs(counts[[1, 2, 3, 4, 5, 7]] - 10_000).max() < 5 * np.sqrt(20_000 * 0.25)


def test_few_or_no_candidates():
    is_candidate = tf.constant([[False, True, False, False], [False, False, False, False]])
    noise = tf.random.stateless_uniform([2, 4], [1, 2])
    positions, weights = masking.choose_positions(is_candidate, tf.constant([2, 1]), noise, 3)
    assert positions.numpy().tolist() == [[1, 0, 0], [0, 0, 0]]
    assert weights.numpy().tolist() == [[1, 0, 0], [0, 0, 0]]
    _, weights = masking.choose_positions_with_replacement(
        is_candidate, tf.constant([2, 1]), noise, 3
    )
    assert weights.numpy()[0].tolist() == [1, 1, 0]
    assert np.isnan(weights.numpy()[1]).all()  # The original's 0 / 0.


def test_the_original_chooses_with_replacement():
    is_candidate = tf.constant([[False, True, True, False, True]] * 9_000)
    noise = tf.random.stateless_uniform([9_000, 5], [1, 2])
    num = tf.fill([9_000], 3)
    positions, weights = masking.choose_positions_with_replacement(is_candidate, num, noise, 4)
    positions = positions.numpy()
    assert (weights.numpy() == [1, 1, 1, 0]).all() and (positions[:, 3] == 0).all()
    counts = np.bincount(positions[:, :3].ravel(), minlength=5)
    assert counts[0] == counts[3] == 0
    assert np.abs(counts[[1, 2, 4]] - 9_000).max() < 5 * np.sqrt(27_000 * 2 / 9)
    all_different = np.mean([len(set(row)) == 3 for row in positions[:, :3]])
    assert abs(all_different - 6 / 27) < 0.025


def test_85_percent_become_mask():
    ids = tf.fill([500, 21], 9)
    positions = tf.tile(tf.range(1, 21)[None], [500, 1])
    noise = tf.random.stateless_uniform([500, 20], [3, 4])
    masked = masking.hide(ids, positions, tf.ones([500, 20]), noise, mask_id=4)
    values = masked.input_ids.numpy()
    assert set(np.unique(values)) == {4, 9} and (values[:, 0] == 9).all()
    assert abs((values[:, 1:] == 4).mean() - 0.85) < 5 * np.sqrt(0.85 * 0.15 / 10_000)
    assert (masked.ids.numpy() == 9).all()


def sample(logits, noise):
    weights, largest = masking.group_weights(logits)
    np.testing.assert_array_equal(largest, logits.numpy().max(axis=-1))
    return masking.sample_tokens(
        weights, lambda ids: tf.gather(logits, ids, batch_dims=1), logits.shape[-1], noise
    )


@pytest.mark.parametrize("vocab_size", [5, 128, 300, 3000])
def test_samples_follow_the_softmax(vocab_size):
    logits = tf.random.stateless_normal([vocab_size], [5, 6], stddev=2.0)
    draws = 60_000
    noise = tf.random.stateless_uniform([draws, 2], [7, 8])
    tokens = sample(tf.tile(logits[None], [draws, 1]), noise).numpy()
    counts = np.bincount(tokens, minlength=vocab_size)
    assert len(counts) == vocab_size
    p = tf.nn.softmax(logits).numpy()
    deviations = (counts - draws * p) / np.sqrt(draws * p * (1 - p) + 1)
    assert np.abs(deviations).max() < 5


def test_samples_at_the_ends_of_the_noise():
    logits = tf.constant([[-1e9, 0.0, 0.0, -1e9]] * 2)
    noise = tf.constant([[0.0, 0.0], [np.nextafter(np.float32(1), 0)] * 2])
    assert sample(logits, noise).numpy().tolist() == [1, 2]


def test_temperature_and_disallow_correct():
    logits = tf.constant([[[0.0, 2.0, 4.0]]])
    is_true = tf.constant([[[False, False, True]]])
    assert masking.sampling_logits(logits, is_true, 2.0, False).numpy().tolist() == [[[0, 1, 2]]]
    assert masking.sampling_logits(logits, is_true, 1.0, True).numpy().tolist() == [[[0, 2, -996]]]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        sampled = tf.reduce_sum(masking.sampling_logits(logits, is_true, 1.0, False))
    assert tape.gradient(sampled, logits) is None


def test_scatter_update_never_writes_the_first_position():
    ids = tf.constant([[7, 8, 9]])
    updated = masking.scatter_update(ids, tf.constant([[1, 2, 5]]), tf.constant([[0, 2, 2]]))
    assert updated.numpy().tolist() == [[7, 8, 3]]  # (2 + 5) // 2
