"""Worker processes that are forked from a server which has loaded TensorFlow, but run nothing."""

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading


def prepare():
    """Starts the server, and returns its `multiprocessing` context.

    Forking this process instead would copy TensorFlow's threads' locks, and starting each worker
    anew would load TensorFlow each time. Called before this process loads TensorFlow itself, the
    two load at once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["electra_tf.corpus"])
    multiprocessing.forkserver.ensure_running()
    return context


def num_cpus():
    """Those that this process may run on: in a container or a job not all of the machine's."""
    if hasattr(os, "sched_getaffinity"):  # Linux has it.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def ending_at_sigterm():
    """Makes SIGTERM leave by way of every `finally`: by default it would leave the workers behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone.
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
