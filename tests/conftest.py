"""A shell may start a background job with SIGINT ignored, which children inherit: tests send SIGINT to theirs."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
