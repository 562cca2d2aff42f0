"""Run a program on a pseudo-terminal, and read what the terminal shows."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

CONTROL = re.compile(r"\x1b\[\??([\d;]*)([A-Za-z])")


def _heed_ctrl_c():
    """Restore the default action of SIGINT in the program.

    A shell starts background processes, which tests may be, with SIGINT ignored. The program would inherit this.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """Runs Python with these arguments on a pseudo-terminal of `columns` columns."""

    def __init__(self, *arguments, columns=80):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        outside = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            **dict.fromkeys(("stdin", "stdout", "stderr"), slave),
            env={**outside, "TERM": "xterm", "PYTHONUTF8": "1"},
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )
        os.close(slave)
        self._data = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def await_text(self, text, timeout_s=240):
        """Wait until the program has printed `text`. Fail if it ends first or takes longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while text not in self.printed():
            assert self._process.poll() is None and time.monotonic() < deadline, self.printed()
            time.sleep(0.05)

    def press_ctrl_c(self):
        """Send SIGINT to the process group of the program, as a terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self, timeout_s=240):
        """Wait until the program ends. Return its exit code and the lines that stay on the terminal."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout=10)
        os.close(self._master)
        return code, self.lines()

    def printed(self):
        """Return all printed text without control sequences, including text that was overwritten later."""
        return CONTROL.sub("", self._data.decode(errors="replace"))

    def live_lines(self):
        """Return each state of the live line, which is the line with the progress bar."""
        return [line for line in re.split(r"[\r\n]+", self.printed()) if "━" in line]

    def lines(self):
        """Return the lines that a terminal of unlimited height shows at the end.

        Of the control sequences, only "cursor up" and "erase line" are interpreted.
        """
        rows, row, column = [""], 0, 0
        for part in re.split(r"(\x1b\[\??[\d;]*[A-Za-z]|[\r\n])", self._data.decode()):
            if control := CONTROL.fullmatch(part):
                row -= int(control[1]) if control[2] == "A" else 0
                rows[row] = "" if control[2] == "K" else rows[row]
            elif part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                rows += [""] if row == len(rows) else []
            else:
                rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + len(part) :]
                column += len(part)
        return [row for row in rows if row]

    def _read(self):
        with contextlib.suppress(OSError):  # the program has closed the terminal
            while data := os.read(self._master, 65_536):
                self._data += data
