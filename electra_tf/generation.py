"""Continuing a text with a causal language model: KerasHub's decoder, cache and samplers."""

import contextlib
import json

import numpy as np
import tensorflow as tf

from electra_tf import files
from electra_tf.characters import is_text
from electra_tf.errors import UserError
from electra_tf.interop import gpt2
from electra_tf.modeling.causal import import_keras_hub
from electra_tf.tokenization import Tokenizer

_END = "<|endoftext|>"
_NEVER = -1e9  # Added to the logit of a token that is never taken.
_ROWS_AT_ONCE = 64


def create_sampler(temperature=None, top_k=None, top_p=None, beam_size=None, seed=None):
    """One of KerasHub's samplers; with no argument the greedy one.

    ```python
    create_sampler(top_k=40, temperature=0.7, seed=1)
    ```

    Args:
      temperature: divides the logits; alone: draws from the whole vocabulary.
      top_k: draws from the so many likeliest tokens.
      top_p: draws from the likeliest tokens that together have this probability.
      beam_size: searches for the likeliest text with so many beams.
      seed: int that decides what is drawn; None for anything.

    Returns:
      `keras_hub.samplers.Sampler`.

    Raises:
      UserError: two of them contradict each other.
    """
    samplers = import_keras_hub().samplers
    given = {"top_k": top_k, "top_p": top_p, "beam_size": beam_size}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise UserError(f"{', '.join(f'{k}={v:g}' for k, v in given.items())}: give one of them")
    if beam_size and temperature is not None:
        raise UserError(
            f"temperature={temperature:g}: a search with beam_size={beam_size} draws nothing; leave "
            "one of them out"
        )
    if beam_size:
        return _beam_sampler(beam_size)
    drawing = {"temperature": 1.0 if temperature is None else temperature, "seed": seed}
    if top_k:
        return samplers.TopKSampler(top_k, **drawing)
    if top_p:
        return samplers.TopPSampler(top_p, **drawing)
    return samplers.GreedySampler() if temperature is None else samplers.RandomSampler(**drawing)


def _beam_sampler(beam_size):
    """KerasHub's beam search that gives all beams of one prompt, best first, as rows."""

    class AllBeams(import_keras_hub().samplers.BeamSampler):
        def __call__(self, *args, **kwargs):
            prompts, _ = super().__call__(*args, **kwargs)
            return prompts[0]

    return AllBeams(beam_size, return_all_beams=True)


def _sampler_without(sampler, is_left_out):
    """A sampler that never takes some tokens.

    Args:
      sampler: `keras_hub.samplers.Sampler`.
      is_left_out: bool [V].
    """
    bias = np.where(is_left_out, _NEVER, 0.0).astype(np.float32)

    class Without(import_keras_hub().samplers.Sampler):
        def __call__(self, next, *args, **kwargs):
            def biased(*state):
                logits, *rest = next(*state)
                return tf.cast(logits, tf.float32) + bias, *rest

            return sampler(biased, *args, **kwargs)

    return Without()


class TextGenerator:
    """A causal language model with its vocabulary.

    ```python
    generator = TextGenerator.from_pretrained("runs/causal")
    generator("Hello, my name is", max_length=50)    # [str]
    generator("Hello, my name is", 50, num_return_sequences=3, sampler=create_sampler(top_k=40))
    ```
    """

    def __init__(self, backbone, vocabulary):
        """Makes the model.

        Args:
          backbone: `keras_hub.models.GPT2Backbone`.
          vocabulary: `WordPieces` or `BytePairs`.
        """
        self.vocabulary = vocabulary
        self.model = import_keras_hub().models.GPT2CausalLM(backbone)

    @classmethod
    def from_pretrained(cls, folder):
        """Reads a GPT-2 folder of transformers', a preset of KerasHub's, or the generator of a causal run.

        Args:
          folder: of the model, or of the run.

        Raises:
          UserError: a file is missing or malformed, or it is another kind of model.
        """
        below = tf.io.gfile.join(folder, "generator")
        folder = below if tf.io.gfile.isdir(below) else folder
        backbone = gpt2.load_backbone(folder)
        vocabulary = _read_vocabulary(folder)
        if vocabulary.size > backbone.vocabulary_size:
            raise UserError(
                f"{folder}: the vocabulary has {vocabulary.size} tokens, the model "
                f"{backbone.vocabulary_size}; put its own vocabulary there"
            )
        return cls(backbone, vocabulary)

    def __call__(self, prompt, max_length=50, num_return_sequences=1, sampler=None):
        """Continues a text, up to a token that ends it.

        Args:
          prompt: str; where it is empty, a text is begun.
          max_length: most tokens, the prompt's included.
          num_return_sequences: how many texts; of a search the best ones.
          sampler: of `create_sampler`; None for the greedy one.

        Returns:
          list of `num_return_sequences` str, each with the prompt; fewer where a search finds one text
          several times.

        Raises:
          UserError: the model has fewer positions or tokens, the prompt leaves no room, or a search
            finds fewer texts.
        """
        samplers = import_keras_hub().samplers
        sampler = sampler or create_sampler()
        if not is_text(prompt):
            raise UserError("the prompt: half of a surrogate pair, or bytes that are not UTF-8")
        self._check_sampler(sampler)
        prompt_ids = self.vocabulary.encode(prompt)
        self._check_lengths(len(prompt_ids), max_length)
        num_rows = num_return_sequences
        if isinstance(sampler, (samplers.GreedySampler, samplers.BeamSampler)):
            found = getattr(sampler, "num_beams", 1)
            if num_return_sequences > found:
                raise UserError(
                    f"num_return_sequences={num_return_sequences}: the search finds {found}; give "
                    "beam_size, or draw with temperature, top_k or top_p"
                )
            num_rows = 1
        # To compile it takes longer than a text.
        self.model.compile(sampler=sampler, jit_compile=False)
        outputs = self.model.generate(
            self._inputs([prompt_ids] * num_rows, max_length),
            stop_token_ids=self.vocabulary.end_ids or None,
        )
        rows = zip(outputs["token_ids"], outputs["padding_mask"])
        texts = [self.vocabulary.decode(ids[is_there].tolist()) for ids, is_there in rows]
        # What beams have behind their end is left out, so that two of them may be one text.
        texts = list(dict.fromkeys(texts)) if num_rows < num_return_sequences else texts
        return texts[:num_return_sequences]

    def fill(self, prompts, max_length, sampler, progress=None):
        """Continues prompts of one length, each to the same number of tokens.

        A token that ends a text, or that stands for none, is never written.

        Args:
          prompts: list of lists of int, of `vocabulary.encode`.
          max_length: tokens of each row, the prompt's included.
          sampler: of `create_sampler`, but no search.
          progress: function of the number of rows done, called now and then.

        Returns:
          int32 [N, max_length], the prompts included.

        Raises:
          UserError: the model has fewer positions or tokens, or the prompts leave no room.
        """
        self._check_sampler(sampler)
        self._check_lengths(len(prompts[0]), max_length)
        is_left_out = np.arange(self.model.backbone.vocabulary_size) >= self.vocabulary.size
        is_left_out[list(self.vocabulary.special_ids)] = True
        self.model.compile(sampler=_sampler_without(sampler, is_left_out), jit_compile=False)
        filled = []
        for start in range(0, len(prompts), _ROWS_AT_ONCE):
            inputs = self._inputs(prompts[start : start + _ROWS_AT_ONCE], max_length)
            filled.append(self.model.generate(inputs, stop_token_ids=None)["token_ids"])
            if progress:
                progress(min(start + _ROWS_AT_ONCE, len(prompts)))
        return np.concatenate(filled)

    def _inputs(self, prompts, max_length):
        """What KerasHub's model takes: prompts [N, P], and room up to `max_length`."""
        num_rows, length = np.shape(prompts)
        # What is yet to be written must not look like an end.
        pad_id = next(i for i in range(self.vocabulary.size) if i not in self.vocabulary.end_ids)
        token_ids = np.full([num_rows, max_length], pad_id, np.int32)
        is_prompt = np.zeros([num_rows, max_length], bool)
        token_ids[:, :length], is_prompt[:, :length] = prompts, True
        return {"token_ids": token_ids, "padding_mask": is_prompt}

    def _check_sampler(self, sampler):
        most = self.model.backbone.vocabulary_size
        for name, key in (("k", "top_k"), ("num_beams", "beam_size")):
            number = getattr(sampler, name, None) or 0
            if number > most:
                raise UserError(f"{key}={number}: the model has {most} tokens; lower it")

    def _check_lengths(self, prompt_length, max_length):
        most = self.model.backbone.max_sequence_length
        if max_length > most:
            raise UserError(f"max_length={max_length}: the model has {most} positions; lower it")
        if prompt_length >= max_length:
            raise UserError(
                f"the prompt takes {prompt_length} of max_length={max_length} tokens; shorten it, or "
                f"raise max_length (to {most} at most)"
            )


class WordPieces:
    """Our vocabulary: text begins with [CLS] and ends with [SEP]."""

    def __init__(self, tokenizer):
        """Takes a `Tokenizer`."""
        self.tokenizer = tokenizer
        self.size, self.end_ids = tokenizer.vocab_size, [tokenizer.sep_id]
        self.special_ids = tokenizer.special_ids

    def encode(self, text):
        """The tokens of a text to continue, list of int."""
        return [self.tokenizer.cls_id, *self.tokenizer.tokenize(text).numpy().tolist()]

    def decode(self, ids):
        """The text of tokens, without special ones, str."""
        ids = [i for i in ids if i not in self.tokenizer.special_ids]
        return self.tokenizer.detokenize(tf.constant(ids, tf.int32)).numpy().decode()


class BytePairs:
    """GPT-2's kind of vocabulary."""

    def __init__(self, tokenizer, end_ids):
        """Takes a `tokenizers.Tokenizer`, and the ids of the tokens that end a text, list of int."""
        self._tokenizer, self.end_ids = tokenizer, end_ids
        self.special_ids = end_ids
        self.size = tokenizer.get_vocab_size()

    def encode(self, text):
        """As `WordPieces.encode`; where there is no text, the token that ends the one before."""
        ids = self._tokenizer.encode(text).ids or self.end_ids[:1]
        if not ids:
            raise UserError(f"the prompt is empty, and the vocabulary has no {_END} to begin with")
        return ids

    def decode(self, ids):
        """As `WordPieces.decode`."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def _read_vocabulary(folder):
    """The vocabulary of a folder of either layout."""

    def path(*names):
        return tf.io.gfile.join(folder, *names)

    def exists(*names):
        return tf.io.gfile.exists(path(*names))

    if gpt2.is_preset(folder):
        assets = path("assets", "tokenizer")
        tokenizer = _read_byte_pairs(*(f"{assets}/{n}" for n in ("vocabulary.json", "merges.txt")))
        end_ids = [tokenizer.token_to_id(_END)]
    elif exists("vocab.txt"):
        return WordPieces(Tokenizer.from_pretrained(folder))
    else:
        if exists("tokenizer.json"):
            tokenizer = _read_tokenizer(path("tokenizer.json"))
        else:
            tokenizer = _read_byte_pairs(path("vocab.json"), path("merges.txt"))
        end_ids = files.read_json_object(path("config.json")).get("eos_token_id")
        end_ids = end_ids if isinstance(end_ids, list) else [end_ids]
    size = tokenizer.get_vocab_size()
    return BytePairs(tokenizer, [i for i in end_ids if i is not None and i < size])


def _read_tokenizer(path):
    """Reads a `tokenizer.json` of Hugging Face's."""
    import tokenizers

    text = json.dumps(files.read_json_object(path))
    with _whole_vocabulary(path):
        return tokenizers.Tokenizer.from_str(text)


def _read_byte_pairs(vocab_file, merges_file):
    """Makes GPT-2's tokenizer of its two files."""
    import tokenizers

    vocab = files.read_json_object(vocab_file)
    content = files.read(merges_file)
    with _whole_vocabulary(f"{vocab_file}, {merges_file}"):
        lines = content.decode().splitlines()
        merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if _END in vocab:
        tokenizer.add_special_tokens([_END])
    return tokenizer


@contextlib.contextmanager
def _whole_vocabulary(where):
    """Turns what `tokenizers` says of a malformed file into the user's error."""
    try:
        yield
    except Exception as error:  # It raises no narrower one.
        raise UserError(f"{where}: no byte-pair vocabulary ({error})") from None
