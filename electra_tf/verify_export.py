"""`python -m electra_tf.verify_export`: does a SavedModel run in a server?; see --help."""

import sys

from electra_tf.commands.verify_export import main

if __name__ == "__main__":
    sys.exit(main())
