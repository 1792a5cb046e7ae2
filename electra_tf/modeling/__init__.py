"""The networks of ELECTRA and their joint training step."""

from electra_tf.errors import check_keras_backend

check_keras_backend()
