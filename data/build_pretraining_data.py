#!/usr/bin/env python3
"""Makes pre-training records of text; see --help."""

import sys

from electra_tf.commands.build_pretraining_data import main

if __name__ == "__main__":
    sys.exit(main())
