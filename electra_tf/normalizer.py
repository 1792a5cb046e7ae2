"""BERT's text clean-up as a table that TensorFlow Text's normalizer op reads.

The original tokenizer (google-research/electra `model/tokenization.py`, `BasicTokenizer`) cleans
text one code point at a time: it drops control characters, turns white space into spaces, puts
spaces around CJK ideographs and punctuation, lower-cases and strips accents. Only the final sigma
depends on its neighbours (`tokenization.Tokenizer` handles it). So the clean-up is a map from code
point to string, and `tensorflow_text.FastBertNormalizer` accepts any such map as a model buffer.
Its own buffer computes another map (it folds compatibility characters); ours reproduces the
original's, in the Unicode version of the original's golden ids (11.0), whatever Python runs.

`python -m electra_tf.normalizer` writes `normalizer.npz`, which the package ships: building takes
seconds, reading it milliseconds. A test rebuilds the file and compares.
"""

import functools
import pathlib
import unicodedata

import numpy as np

TABLES_FILE = pathlib.Path(__file__).with_name("normalizer.npz")

_SURROGATES = range(0xD800, 0xE000)
CODE_POINTS = [o for o in range(0x110000) if o not in _SURROGATES]

# Properties that later Unicode versions changed, as Unicode 11 has them.
_CATEGORY_IN_UNICODE_11 = {0x166D: "Po", 0x1734: "Mn", 0x1CF2: "Mc", 0x1CF3: "Mc", 0xA9BD: "Mc"}
_CASE_IGNORABLE_IN_UNICODE_11 = {0x055F: False, 0x1734: True, 0xA9BD: False}

# Classes of a code point for the final-sigma rule (Unicode 11, section 3.13, Final_Sigma).
OTHER, CASED, IGNORABLE = 0, 1, 2


@functools.cache
def _unassigned_in_unicode_11():
    """Code points that Unicode 11 does not assign: the original drops them, as it drops controls."""
    table = pathlib.Path(__file__).with_name("unicode_11_unassigned.txt").read_text("ascii")
    ranges = (line.split("..") for line in table.splitlines() if not line.startswith("#"))
    return frozenset(o for first, last in ranges for o in range(int(first, 16), int(last, 16) + 1))


def category(char):
    """Unicode 11 general category of one character, on any Python."""
    code_point = ord(char)
    if code_point in _unassigned_in_unicode_11():
        return "Cn"
    return _CATEGORY_IN_UNICODE_11.get(code_point) or unicodedata.category(char)


def _is_dropped(char):
    is_control = category(char)[0] == "C" and char not in "\t\n\r"
    return char in "\0\ufffd" or is_control


def _is_punctuation(char):
    # All ASCII that is no letter, digit or space counts: "$" and "^" too.
    is_ascii_symbol = "!" <= char <= "~" and not char.isalnum()
    return is_ascii_symbol or category(char)[0] == "P"


def _is_cjk(code_point):
    return any(
        first <= code_point <= last
        for first, last in (
            (0x3400, 0x4DBF),
            (0x4E00, 0x9FFF),
            (0xF900, 0xFAFF),
            (0x20000, 0x2A6DF),
            (0x2A700, 0x2B73F),
            (0x2B740, 0x2B81F),
            (0x2B820, 0x2CEAF),
            (0x2F800, 0x2FA1F),
        )
    )


def clean_up(char, lowercase, strip_accents):
    """What the original's clean-up makes of one character: a string of zero or more."""
    if _is_dropped(char):
        return ""
    if char.isspace():
        return " "
    text = char.lower() if lowercase else char
    if strip_accents:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if category(c) != "Mn")
    text = "".join(f" {c} " if _is_punctuation(c) else c for c in text)
    return f" {text} " if _is_cjk(ord(char)) else text


def _final_sigma_class(char):
    """How `str.lower` sees a character beside a capital sigma: cased, ignorable or neither."""
    cleaned = clean_up(char, lowercase=False, strip_accents=False)
    if cleaned == "":
        return IGNORABLE  # Gone before the text is lower-cased.
    if char.isspace() or _is_cjk(ord(char)):
        return OTHER  # The word ends here.
    if (char + "Σ").lower()[-1] == "ς":
        return CASED
    ignorable = ("A" + char + "Σ").lower()[-1] == "ς"
    return IGNORABLE if _CASE_IGNORABLE_IN_UNICODE_11.get(ord(char), ignorable) else OTHER


def _split_by_wordpiece_op():
    """Code points around which the FastWordpiece op splits by itself."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    op = tf_text.FastWordpieceTokenizer(vocab=["[UNK]", "a", "##a"], token_out_type=tf.int32)
    # "a" + space + "a" makes two tokens, "a" + "!" + "a" three, "a" + "b" + "a" one.
    words = [f"a{chr(o)}a" for o in CODE_POINTS if o and chr(o) != "a"]
    counts = op.tokenize(tf.constant(words)).row_lengths().numpy()
    return {word[1] for word, count in zip(words, counts) if count > 1}


def character_map(lowercase, strip_accents):
    """The clean-up as a dict from character to string, for the characters that it changes.

    Spaces around a character are left out where the FastWordpiece op splits there anyway.

    Raises:
      AssertionError: the op splits around a character that the original keeps in its word.
    """
    split_by_op = _split_by_wordpiece_op()
    changed = {}
    for char in map(chr, CODE_POINTS[1:]):
        cleaned = clean_up(char, lowercase, strip_accents)
        words = f"x{cleaned}x".split(" ")
        over_split = [c for word in words if len(word) > 1 for c in word if c in split_by_op]
        assert not over_split, f"FastWordpiece would split U+{ord(char):04X} off its word"
        if len(words) == 3 and words[1] in split_by_op:
            cleaned = words[1]
        if cleaned != char and not (cleaned == " " and char in "\t\n\r"):
            changed[char] = cleaned
    return changed


def _minimal_automaton(words):
    """Merges equal suffixes of a set of byte strings with values (a DAWG).

    Returns:
      `(states, root)`: a state is a tuple of `(label, next state)`, or `((None, value),)` at the end.
    """
    trie = {}
    for word, value in words.items():
        node = trie
        for byte in word:
            node = node.setdefault(byte, {})
        node[None] = value
    numbers, states = {}, []

    def intern(node):
        if None in node:
            state = ((None, node[None]),)
        else:
            state = tuple((byte, intern(child)) for byte, child in sorted(node.items()))
        if state not in numbers:
            numbers[state] = len(states)
            states.append(state)
        return numbers[state]

    return states, intern(trie)


def _double_array(words):
    """A darts-clone double array (uint32 units) of UTF-8 characters and 31-bit values.

    Unit layout (darts-clone `darts.h`): bits 0-7 label, bit 8 "a value follows", bits 10-30 offset
    to the children by exclusive or; a value's unit has bit 31 set. Equal subtrees are stored once.
    """
    states, root = _minimal_automaton(words)
    inner = [i for i, state in enumerate(states) if state[0][0] is not None]
    ends = [i for i, state in enumerate(states) if state[0][0] is None]
    size = 1 << 20
    used = np.zeros(size, bool)
    used[0] = True
    used_base = np.zeros(size, bool)
    bases = {}
    for i in sorted(inner, key=lambda i: -len(states[i])):  # The widest first: it packs better.
        labels = np.array([label for label, _ in states[i]])
        start = 1
        while i not in bases:
            window = np.arange(start, start + 4096)
            free = ~used_base[window] & ~used[window[:, None] ^ labels].any(axis=1)
            if free.any():
                bases[i] = int(window[free.argmax()])
            start += 4096
        used_base[bases[i]] = True
        used[bases[i] ^ labels] = True

    units = np.zeros(size, np.uint32)
    free_units = (u for u in range(1, size) if not used[u] and not used_base[u])
    for i, unit in zip(ends, free_units):
        bases[i] = unit
        used[unit] = True
        units[unit] = states[i][0][1] | 1 << 31

    def place(unit, state, label):
        offset, is_end = unit ^ bases[state], states[state][0][0] is None
        assert offset < 1 << 21
        units[unit] = offset << 10 | is_end << 8 | label

    place(0, root, 0)
    for i in inner:
        for label, child in states[i]:
            place(bases[i] ^ label, child, label)
    length = int(used.nonzero()[0].max()) + 1
    return units[: -(-length // 256) * 256]  # A lookup may touch any unit of a block of 256.


_REPLACED = 0x40000000  # Marks a value that replaces the character: offset << 6 | length follows.


def build_model(lowercase, strip_accents):
    """The model buffer of `tensorflow_text.FastBertNormalizer` for one casing.

    The op's flatbuffer schema (tensorflow-text `fast_bert_normalizer_model.fbs`) is: whether text is
    lower-cased, the trie, the value of code point 0, the pool of replacement bytes.

    Args:
      lowercase: lower-case the text.
      strip_accents: decompose it and drop its combining marks.

    Returns:
      uint8 array, the flatbuffer.
    """
    import flatbuffers

    pool, offsets, values = bytearray(), {}, {}
    for char, cleaned in character_map(lowercase, strip_accents).items():
        replacement = cleaned.encode()
        assert len(replacement) < 1 << 6
        if replacement not in offsets:
            offsets[replacement] = len(pool)
            pool += replacement
        values[char.encode()] = _REPLACED | offsets[replacement] << 6 | len(replacement)

    builder = flatbuffers.Builder(1 << 20)
    trie_vector = builder.CreateNumpyVector(_double_array(values))
    pool_vector = builder.CreateNumpyVector(np.frombuffer(bytes(pool), np.uint8))
    builder.StartObject(4)
    builder.PrependBoolSlot(0, True, False)
    builder.PrependUOffsetTRelativeSlot(1, trie_vector, 0)
    builder.PrependInt32Slot(2, _REPLACED, 0)
    builder.PrependUOffsetTRelativeSlot(3, pool_vector, 0)
    builder.Finish(builder.EndObject())
    return np.frombuffer(bytes(builder.Output()), np.uint8)


def _model_name(lowercase, strip_accents):
    return f"lowercase_{lowercase}_strip_accents_{strip_accents}"


PAGE = 256


def build_tables():
    """All that `normalizer.npz` holds: four model buffers and the paged final-sigma classes."""
    tables = {
        _model_name(lowercase, strip_accents): build_model(lowercase, strip_accents)
        for lowercase in (True, False)
        for strip_accents in (True, False)
    }
    classes = np.zeros(0x110000, np.int8)
    for o in CODE_POINTS:
        classes[o] = _final_sigma_class(chr(o))
    pages, page_numbers = np.unique(classes.reshape(-1, PAGE), axis=0, return_inverse=True)
    tables["sigma_pages"] = pages.reshape(-1)
    tables["sigma_page_numbers"] = page_numbers.reshape(-1).astype(np.int16)
    return tables


def load_model(lowercase, strip_accents):
    """The shipped model buffer (uint8 array) of one casing."""
    with np.load(TABLES_FILE) as tables:
        return tables[_model_name(lowercase, strip_accents)]


def load_final_sigma_classes():
    """The shipped classes: `pages` int8, `page_numbers` int16 (class = pages[numbers[o // 256] * 256 + o % 256])."""
    with np.load(TABLES_FILE) as tables:
        return tables["sigma_pages"], tables["sigma_page_numbers"]


if __name__ == "__main__":
    np.savez_compressed(TABLES_FILE, **build_tables())
    print(f"wrote {TABLES_FILE.name}: {TABLES_FILE.stat().st_size} bytes")
