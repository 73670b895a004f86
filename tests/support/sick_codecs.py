"""Files that make a decoder process hang, crash or run out of memory. No real codec is known to do so."""

# Runs in the fork server's process before its workers are forked.
SETUP = """
import os, signal
from engine.imageio.formats import FORMATS
from engine.imageio.image import ImageInfo
from engine.imageio.sandbox import fork_server
read_info, read = fork_server.read_info, fork_server.read

def act(what):
    match what:
        case b"hang": signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); signal.sigwait([])
        case b"crash": os.kill(os.getpid(), signal.SIGSEGV)
        case b"leave": os._exit(3)
        case b"eat": bytearray(2**30)
        case b"talk": os.write(2, b"odd"); raise AssertionError("a bug of ours")

def sick_read(data, **options):
    act(data[8:])
    return read(data, **options)

def sick_read_info(data, **options):
    act(data[8:].removeprefix(b"early ") if data[8:14] == b"early " else b"")
    return ImageInfo(FORMATS["png"], 600, "8") if len(data) < 20 else read_info(data, **options)

fork_server.read_info, fork_server.read = sick_read_info, sick_read
"""


def sick(what):
    """A PNG file that makes a worker do so when it is read; `early ...`: already when its header is read."""
    return b"\x89PNG\r\n\x1a\n" + what.encode()
