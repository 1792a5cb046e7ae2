"""SavedModels of strings whose answers can be told by hand, of each kind that the exporter knows.

They have the exporter's inputs and outputs, and operations of TensorFlow alone.
"""

import tensorflow as tf

TEXT = tf.TensorSpec([None], tf.string)


def save(folder, inputs, function, **signatures):
    """Writes a version of a model.

    Args:
      folder: of the version.
      inputs: dict from name to `tf.TensorSpec`, of `serving_default`.
      function: of a tensor for each; gives a dict of tensors.
      **signatures: more of them, pairs of `inputs` and `function`.
    """
    module = tf.Module()
    functions = {
        name: tf.function(one, input_signature=[_named(*item) for item in specs.items()])
        for name, (specs, one) in {"serving_default": (inputs, function), **signatures}.items()
    }
    tf.saved_model.save(module, str(folder), functions)


def _named(name, spec):
    return tf.TensorSpec(spec.shape, spec.dtype, name=name)


def _words(text):
    """Words of texts that single spaces separate, padded: strings, starts and ends [B, W]."""
    ragged = tf.strings.split(text, " ")
    words = ragged.to_tensor("")
    lengths = tf.strings.length(words, unit="UTF8_CHAR")
    starts = tf.cumsum(lengths + 1, axis=1, exclusive=True)
    is_word = tf.cast(lengths > 0, tf.int32)
    return words, starts * is_word, (starts + lengths) * is_word


def _tiled(labels, text):
    return tf.tile(tf.constant(labels)[None], [tf.shape(text)[0], 1])


def classification(text):
    """ "yes" with 0.75 for a text with an exclamation mark, else "no" with 0.75."""
    is_yes = tf.cast(tf.strings.regex_full_match(text, ".*!.*"), tf.float32)
    yes = 0.25 + 0.5 * is_yes
    return {
        "label": tf.where(is_yes > 0, "yes", "no"),
        "labels": _tiled(["no", "yes"], text),
        "scores": tf.stack([1 - yes, yes], axis=1),
    }


def multi_label(text):
    """Which of a, b and c are in a text: 0.75 if so, else 0.25."""
    scores = tf.stack(
        [
            0.25 + 0.5 * tf.cast(tf.strings.regex_full_match(text, f".*{letter}.*"), tf.float32)
            for letter in "abc"
        ],
        axis=1,
    )
    return {"labels": _tiled(["a", "b", "c"], text), "scores": scores, "is_predicted": scores > 0.5}


def regression(text, text_pair):
    """How many characters the second text is longer."""
    short, long = (tf.strings.length(t, unit="UTF8_CHAR") for t in (text, text_pair))
    return {"outputs": tf.cast(long - short, tf.float32)}


def regression_of_examples(inputs):
    """`regression`, of serialized tf.Examples."""
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("text", "text_pair")}
    return regression(**tf.io.parse_example(inputs, features))


def tagging(text):
    """ "LONG" for words of more than three characters."""
    words, starts, ends = _words(text)
    is_long = ends - starts > 3
    labels = tf.where(is_long, "LONG", "SHORT")
    return {
        "words": words,
        "labels": tf.where(ends > 0, labels, ""),
        "scores": tf.where(ends > 0, tf.where(is_long, 0.75, 0.5), 0.0),
        "starts": starts,
        "ends": ends,
    }


def answers(question, context):
    """The first two words of the context; none to "None?"."""
    words, starts, ends = (part[:, :2] for part in _words(context))
    is_none = tf.equal(question, "None?")
    return {
        "answer": tf.where(is_none, "", words[:, 0]),
        "answers": words,
        "scores": tf.where(ends > 0, tf.constant([[0.75, 0.25]]), 0.0),
        "starts": starts,
        "ends": ends,
        "no_answer_score": tf.where(is_none, 0.875, 0.125),
    }


def filled_masks(text):
    """ "good" and "bad" at each [MASK]."""
    masks = tf.strings.split(text, "[MASK]").row_lengths() - 1
    is_mask = tf.sequence_mask(masks)[:, :, None]
    return {
        "tokens": tf.where(is_mask, tf.constant([[["good", "bad"]]]), ""),
        "scores": tf.where(is_mask, tf.constant([[[0.5, 0.25]]]), 0.0),
    }


def multiple_choice(text, choices):
    """The longest choice, with 0.5; the others share the rest."""
    del text
    best = tf.argmax(tf.strings.length(choices), axis=1, output_type=tf.int32)
    count = tf.shape(choices)[1]
    is_best = tf.one_hot(best, count)
    labels = tf.strings.as_string(tf.range(count))
    return {
        "label": tf.gather(labels, best),
        "labels": tf.tile(labels[None], [tf.shape(choices)[0], 1]),
        "scores": 0.5 * is_best + 0.5 * (1 - is_best) / tf.cast(count - 1, tf.float32),
    }


def replaced_tokens(text):
    """Words as pieces, replaced with 0.5."""
    words, starts, ends = _words(text)
    probabilities = tf.where(ends > 0, 0.5, 0.0)
    return {
        "pieces": words, "starts": starts, "ends": ends, "replaced_probabilities": probabilities
    }  # fmt: skip


#: By the names of models: inputs and function.
KINDS = {
    "classification": ({"text": TEXT}, classification),
    "multi_label": ({"text": TEXT}, multi_label),
    "regression": ({"text": TEXT, "text_pair": TEXT}, regression),
    "tagging": ({"text": TEXT}, tagging),
    "answers": ({"question": TEXT, "context": TEXT}, answers),
    "filled_masks": ({"text": TEXT}, filled_masks),
    "multiple_choice": (
        {"text": TEXT, "choices": tf.TensorSpec([None, None], tf.string)},
        multiple_choice,
    ),
    "replaced_tokens": ({"text": TEXT}, replaced_tokens),
}


def save_kinds(folder):
    """Writes `FOLDER/NAME/1` for each name of `KINDS`."""
    for name, (inputs, function) in KINDS.items():
        more = (
            {"regress": ({"inputs": TEXT}, regression_of_examples)} if name == "regression" else {}
        )
        save(folder / name / "1", inputs, function, **more)


def save_arrays(folder):
    """A model of arrays: a scalar of a batch, and dtypes that JSON does not tell apart."""
    number = {"numbers": tf.TensorSpec([None], tf.int32)}
    texts = {"texts": tf.TensorSpec([None, None], tf.string)}
    save(
        folder,
        number,
        lambda numbers: {"total": tf.reduce_sum(numbers)},
        several=(
            number,
            lambda numbers: {
                "total": tf.reduce_sum(numbers),
                "long": tf.cast(numbers, tf.int64),
                "half": tf.cast(numbers, tf.float32) / 2,
                "double": tf.cast(numbers, tf.float64) / 3,
                "is_odd": numbers % 2 == 1,
            },
        ),
        echo=(texts, lambda texts: {"same": texts, "same_bytes": texts}),
        scalar_bytes=(texts, lambda texts: {"first_bytes": texts[0, 0]}),
    )


def save_number(folder, number):
    """A model that gives one number for every text."""
    save(folder, {"text": TEXT}, lambda text: {"outputs": tf.fill(tf.shape(text), float(number))})
