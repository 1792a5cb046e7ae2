"""Worker processes that are forked from a server which has loaded TensorFlow, but run nothing."""

import multiprocessing
import multiprocessing.forkserver


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
