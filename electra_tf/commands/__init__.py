"""What the commands have in common: flags, help, errors of one line and exit codes."""

import ctypes
import importlib
import logging as py_logging
import math
import os
import re
import sys

from absl import flags, logging
from tqdm import tqdm

from electra_tf.errors import RunStopped, UserError, WorkerLost, check_keras_backend

EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell has it.
EXIT_STOPPED = 75  # sysexits.h's EX_TEMPFAIL: a job scheduler should start the command again.

# TensorFlow's own start-up messages would bury the command's.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


_M_ARENA_MAX = -8  # In glibc's malloc.h.
# What Keras and TensorFlow import where they find it, for what no command does.
_UNUSED = ("IPython", "cv2", "matplotlib", "pandas", "scipy", "sklearn")


def import_tensorflow():
    """Imports TensorFlow in a way that takes less memory; before anything else imports it.

    For commands, whose process is theirs: without what TensorFlow and Keras would import beside
    them (170 MB, and more than a second), and with one arena of glibc's allocator for two cores
    instead of sixteen: what one thread frees in its own, no other thread gets (150 MB).
    """
    if "tensorflow" in sys.modules:
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc alone has it.
        libc.mallopt(_M_ARENA_MAX, max(1, (os.cpu_count() or 1) // 2))
    hidden = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        for name in ("tensorflow", "tf_keras"):  # tensorflow-text and Orbit import tf_keras.
            importlib.import_module(name)
    finally:
        for name in hidden:
            del sys.modules[name]


def define_device_flags(values):
    """The flags of commands that train on devices, several perhaps."""
    flags.DEFINE_enum(
        "strategy",
        "auto",
        ["auto", "one_device", "mirrored", "multi_worker", "tpu"],
        "Devices to train on; auto looks at TF_CONFIG, TPU_NAME and the devices there are.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_virtual_devices",
        0,
        "Devices to make of the CPU, to try out several; 0 for those that there are.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "xla",
        None,
        "Compile the gradients by XLA. Left out: on a GPU yes, on a CPU no, where its products are "
        "slower.",
        flag_values=values,
    )


def run(define_flags, function, description, argv=None, takes_arguments=False):
    """Parses flags, runs a command and turns what the user can mend, or a full disk, into one line.

    Args:
      define_flags: function that defines the command's flags in a `flags.FlagValues`.
      function: what to run with the parsed `flags.FlagValues`.
      description: text above the flags in `--help`.
      argv: command line with the program's name; None for `sys.argv`.
      takes_arguments: whether `function` also takes a list of the arguments that are no flags; after
        `--` all are.

    Returns:
      exit code: 0, 1 for want of room on a disk or of a worker, 2 for a user's mistake, 75 for a
      run that was stopped and can go on, 130 when interrupted with nothing to save, 141 where what is
      printed is not read to its end.
    """
    argv = sys.argv if argv is None else argv
    values = flags.FlagValues()
    define_flags(values)
    values.set_gnu_getopt(takes_arguments)
    if any(arg in ("--help", "-help", "-h", "--helpfull", "--helpshort") for arg in argv[1:]):
        print(_help(values, description))
        return 0
    _log_to_stderr()
    try:
        rest = values(argv)[1:]
        if rest and not takes_arguments:
            raise UserError(f"unexpected argument '{rest[0]}'; flags are written --name=value")
        for name, flag in values.flag_values_dict().items():
            if isinstance(flag, float) and not math.isfinite(flag):
                raise UserError(f"--{name}={flag}: give a finite number")
        check_keras_backend()
        function(values, *([rest] if takes_arguments else []))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is saved", file=sys.stderr)
        return 130
    except RunStopped as stopped:
        print(f"stopped: {stopped}", file=sys.stderr, flush=True)
        return EXIT_STOPPED
    except WorkerLost as error:
        print(f"error: {_one_line(error)}", file=sys.stderr, flush=True)
        return 1
    except (UserError, flags.Error) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr, flush=True)
        return 2
    except BrokenPipeError:  # As by `| head`: nobody reads on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except _write_errors() as error:
        from electra_tf import files

        message, code = files.no_room(error), 1
        if message is None:
            message, code = files.not_allowed(error), 2
        if message is None:
            raise
        print(f"error: {_one_line(message)}", file=sys.stderr, flush=True)
        return code
    return 0


class _LogHandler(py_logging.Handler):
    """Writes lines to stderr that do not land in the middle of a progress bar."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stderr)


def _log_to_stderr():
    """Shows the log on stderr, once however many commands a process runs."""
    logging.set_verbosity(logging.INFO)
    root = py_logging.getLogger()
    if not any(isinstance(handler, _LogHandler) for handler in root.handlers):
        handler = _LogHandler()
        handler.setFormatter(py_logging.Formatter("%(levelname)s %(asctime)s %(message)s"))
        handler.addFilter(_is_for_the_user)
        root.addHandler(handler)


def _write_errors():
    """`files.WRITE_ERRORS`; only a command that fails loads TensorFlow for them."""
    from electra_tf import files

    return files.WRITE_ERRORS


def _is_for_the_user(record):
    """Keeps TensorFlow's chatter out of the log: ours, and warnings of all."""
    return record.levelno >= py_logging.WARNING or "electra_tf" in record.pathname


def _one_line(error):
    text = str(error).removeprefix("flag ")
    if isinstance(error, flags.UnrecognizedFlagError):
        text += " See --help for the flags there are."
    return re.sub(r"\s+", " ", text)


def _help(values, description):
    lines = [description.strip(), "", "Flags:"]
    for name in sorted(values):
        flag = values[name]
        if name != flag.name or name in _ABSL_FLAGS:
            continue  # A short name or an alias.
        default = "" if flag.default in (None, "", []) else f" (default: {flag.default_as_str})"
        negation = "[no]" if flag.boolean else ""
        lines.append(f"  --{negation}{name}{default}")
        lines.append(flags.text_wrap(flag.help, length=96, indent="      "))
    return "\n".join(lines)


_ABSL_FLAGS = ("flagfile", "undefok")


def progress_bar(**kwargs):
    """A tqdm bar on stderr: redrawn on a terminal, a line every ten seconds in a log file."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(file=sys.stderr, mininterval=interval, dynamic_ncols=True, **kwargs)


def bytes_bar(name, total):
    """A `progress_bar` over bytes."""
    return progress_bar(desc=name, total=total, unit="B", unit_scale=True)
