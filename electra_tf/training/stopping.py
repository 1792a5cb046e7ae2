"""Leaving a run when the system asks for it, with everything saved."""

import contextlib
import signal
import threading


class StopRequest:
    """Set by SIGTERM (a scheduler takes the machine away) and by Ctrl-C.

    Attributes:
      is_set: whether one of them came to this process.
      is_agreed: whether all workers know that one came to one of them; they must leave together.
    """

    def __init__(self):
        self.is_set = self.is_agreed = False

    @contextlib.contextmanager
    def listening(self):
        """Takes the signals while the context lasts; a second Ctrl-C interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread alone.
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def note(number, frame):
            self.is_set = True
            signal.signal(number, before[number])

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
