"""`python -m electra_tf.export`: a model for TensorFlow Serving; see --help."""

import sys

from electra_tf.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
