"""TFRecord files of tf.Examples, as TensorFlow's own writer makes them."""

import tensorflow as tf


def feature_of(value):
    """A `tf.train.Feature` of a str, bytes, int or float, or of a list of one kind of those."""
    values = value if isinstance(value, list) else [value]
    if all(isinstance(v, int) for v in values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    if all(isinstance(v, float) for v in values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    values = [v.encode() if isinstance(v, str) else v for v in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def write_examples(path, rows):
    """Writes dicts, gzipped where the name ends in .gz as TFX does; bytes are written as they are."""
    with tf.io.TFRecordWriter(str(path), "GZIP" if str(path).endswith(".gz") else "") as f:
        for row in rows:
            if not isinstance(row, bytes):
                features = {name: feature_of(value) for name, value in row.items()}
                row = tf.train.Example(
                    features=tf.train.Features(feature=features)
                ).SerializeToString()
            f.write(row)
    return str(path)
