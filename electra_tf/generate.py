"""`python -m electra_tf.generate`: continues a text with a causal language model; see --help."""

import sys

from electra_tf.commands.generate import main

if __name__ == "__main__":
    sys.exit(main())
