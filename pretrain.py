#!/usr/bin/env python3
"""Pre-trains ELECTRA; see --help."""

import sys

from electra_tf.commands.pretrain import main

if __name__ == "__main__":
    sys.exit(main())
