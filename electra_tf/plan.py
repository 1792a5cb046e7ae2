"""`python -m electra_tf.plan`: what a pre-training run will need; see --help."""

import sys

from electra_tf.commands.plan import main

if __name__ == "__main__":
    sys.exit(main())
