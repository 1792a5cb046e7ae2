"""`python -m electra_tf.play`: the sequence-level game of generator and discriminator; see --help."""

import sys

from electra_tf.commands.play import main

if __name__ == "__main__":
    sys.exit(main())
