"""`python -m electra_tf.convert`: to and from other programs' checkpoints; see --help."""

import sys

from electra_tf.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
