"""`python -m electra_tf.serving.query`: asks a model on a server; see --help."""

import sys

from electra_tf.commands.query import main

if __name__ == "__main__":
    sys.exit(main())
