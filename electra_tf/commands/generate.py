"""Continues a text with a causal language model.

  python -m electra_tf.generate --model=runs/causal --prompt="Hello, my name is" --max_length=50 \\
      --top_k=40 --num_return_sequences=3 --seed=1

The model is a pre-training run with generator=causal, a GPT-2 folder of transformers', or a preset of
KerasHub's. The likeliest token is taken at each position, unless --temperature, --top_k or
--top_p asks for a draw, or --beam_size for a search. docs/generators.md says more.
"""

import sys

from absl import flags

from electra_tf import commands


def define_sampling_flags(values):
    """Flags of every command that draws text."""
    flags.DEFINE_float(
        "temperature",
        None,
        "Divides the logits: below 1 likely tokens become likelier. Draws, alone from all tokens.",
        lower_bound=1e-3,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "top_k", None, "Draw from so many likeliest tokens.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_float(
        "top_p",
        None,
        "Draw from the likeliest tokens that together have this probability.",
        lower_bound=1e-6,
        upper_bound=1.0,
        flag_values=values,
    )


def define_flags(values):
    flags.DEFINE_string("model", None, "Folder of the model, or of the run.", flag_values=values)
    flags.DEFINE_string("prompt", None, "Text to continue; may be empty.", flag_values=values)
    flags.mark_flags_as_required(["model", "prompt"], flag_values=values)
    flags.DEFINE_integer(
        "max_length", 50, "Most tokens, the prompt's included.", lower_bound=2, flag_values=values
    )
    flags.DEFINE_integer(
        "num_return_sequences",
        1,
        "How many texts; of a search the best ones. An empty line is between two.",
        lower_bound=1,
        flag_values=values,
    )
    define_sampling_flags(values)
    flags.DEFINE_integer(
        "beam_size",
        None,
        "Search for the likeliest text with so many beams.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed",
        None,
        "Decides what is drawn (default: each time anew).",
        lower_bound=0,
        upper_bound=2**31 - 1,
        flag_values=values,
    )


def _run(values):
    commands.import_tensorflow()
    from electra_tf.generation import TextGenerator, create_sampler

    sampler = create_sampler(
        values.temperature, values.top_k, values.top_p, values.beam_size, values.seed
    )
    generator = TextGenerator.from_pretrained(values.model)
    texts = generator(values.prompt, values.max_length, values.num_return_sequences, sampler)
    print("\n\n".join(texts))


def main(argv=None):
    """Entry point; returns the exit code."""
    return commands.run(define_flags, _run, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
