"""`python -m electra_tf.extend_vocab`: pieces that help on a corpus, with rows for them; see --help."""

import sys

from electra_tf.commands.extend_vocab import main

if __name__ == "__main__":
    sys.exit(main())
