#!/usr/bin/env python3
"""Trains or checks a WordPiece vocabulary; see --help."""

import sys

from electra_tf.commands.build_vocab import main

if __name__ == "__main__":
    sys.exit(main())
