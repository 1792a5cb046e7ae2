#!/usr/bin/env python3
"""Fine-tunes an encoder; see --help."""

import sys

from electra_tf.commands.finetune import main

if __name__ == "__main__":
    sys.exit(main())
